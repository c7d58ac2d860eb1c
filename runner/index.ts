export { default as sql } from "sql-template-tag";
export type { Execute } from "./database/statements.ts";
export { NonRetriable, NotikaError, RetryAfter, StepError } from "./errors.ts";
export type { Log } from "./log.ts";
export type { Event, Operation, Row, Trigger } from "./workflow/event.ts";
export type { Columns, Options, Schedule } from "./workflow/options.ts";
export type { Step, StepCall } from "./workflow/step.ts";
export type { Cancellation, Change, Source, Sources, WaitOptions } from "./workflow/waits.ts";
export { type Context, type Definition, type Workflow, workflow } from "./workflow/workflow.ts";
