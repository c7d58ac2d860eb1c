export { default as sql } from "sql-template-tag";
export type { Execute } from "./database.ts";
export { NonRetriable, NotikaError, RetryAfter, StepError } from "./errors.ts";
export type { Log } from "./log.ts";
export type { Columns, Options, Schedule } from "./options.ts";
export { createRunner, type Runner, type RunnerOptions } from "./runner.ts";
export type { Cancellation, Change, Source, Sources, WaitOptions } from "./sources.ts";
export type { Step, StepCall } from "./step.ts";
export {
  type Context,
  type Definition,
  type Event,
  type Operation,
  type Row,
  type Trigger,
  type Workflow,
  workflow,
} from "./workflow.ts";
