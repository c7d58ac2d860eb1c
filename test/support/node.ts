/** PGlite is compiled once, not a second time for speed, which takes longer than most tests. */
export const quickWasm = ["--liftoff-only"];
