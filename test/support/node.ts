/** For processes with a PGlite: it is compiled once, not a second time for speed, which takes longer than most tests; and its GC takes no other core. */
export const quickWasm = ["--liftoff-only", "--single-threaded-gc"];
