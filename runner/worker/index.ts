export { createRunner, type Runner, type RunnerOptions } from "./runner.ts";
