import type { Api, Client } from "./api.ts";
import type { Program } from "./program.ts";

/** A published application, and what is done to it. */
export interface Application {
  name: string;
  version: string;
  /** Where the npm package says it may be used. */
  licence: string;
  /** Installs it, with what it needs, into the cache. */
  install(): Promise<void>;
  /** Makes its tables in an empty database; again: upgrades them. */
  prepare?(place: Place): Promise<void>;
  /** Starts it and waits until it answers. */
  start(place: Place): Promise<Program>;
  /** What the requests of its API have in common. */
  client: Client;
  /** Called before the chapters, and after each start. */
  logIn?(api: Api): Promise<void>;
  /** Whether the role of the application publishes its workflows itself; else an administrator does. */
  publishes: boolean;
  chapters: Chapter[];
  refusals: Refusal[];
}

/** Where an application runs. */
export interface Place {
  database: { url: string; port: number; name: string; user: string };
  /** The port that the application listens on. */
  port: number;
  /** A folder of its own. */
  folder: string;
}

/** A part of the script. Its requests are to be answered alike with Notika and without. */
export interface Chapter {
  title: string;
  drive(stage: Stage): Promise<void>;
  /** Published after it. */
  publish?: Workflow[];
}

export interface Stage {
  api: Api;
  place: Place;
  /** Stops the application, does something, starts it again, and gives what it said. */
  restart(meanwhile?: () => Promise<void>): Promise<string>;
}

export interface Workflow {
  name: string;
  /** As Postgres writes it, with its schema. */
  table: string;
  operations: ("insert" | "update" | "delete")[];
  /** What an event carries; null: the whole row. */
  columns: string[] | null;
  watch?: string[];
  condition?: string;
  /** The condition once more, over the rows `o` and `n` of the shadow, which are jsonb. */
  expected?: string;
  /** What tells the rows of the table apart; default: id. */
  key?: string[];
}

/** A change of the schema that breaks a workflow: refused until the workflow is unpublished. */
export interface Refusal {
  title: string;
  workflow: string;
  send(stage: Stage): Promise<unknown>;
  /** Requests that show what the refusal has left: answered as before it. */
  look(api: Api): Promise<unknown>;
}
