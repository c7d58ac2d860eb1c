import type { Client } from "pg";
import { ConnectError } from "../connection/errors.ts";
import { findRoute } from "../connection/route.ts";
import { readSettings, type Settings, shown } from "../connection/settings.ts";
import { encryption } from "./encryption.ts";
import { error, type Finding, ok } from "./finding.ts";
import { installation } from "./installation.ts";
import { network } from "./network.ts";
import { directAddress, pooler } from "./pooler.ts";
import { rights } from "./rights.ts";
import { server } from "./server.ts";

export interface Examination {
  /** The URL that was examined, without the password. */
  url: string;
  findings: Finding[];
}

/** Examines everything that Notika needs to work, from the name of the host to the triggers. */
export async function examine(text: string, direct: string | undefined): Promise<Examination> {
  const settings = readSettings(text);
  const findings = await network(settings);
  const isReachable = findings.some(({ finding, severity }) => finding === "address" && severity === "ok");
  if (isReachable) findings.push(...(await beyond(settings, direct)));
  return { url: shown(settings), findings };
}

async function beyond(settings: Settings, direct: string | undefined): Promise<Finding[]> {
  const found = await findRoute(settings).catch((cause) => {
    if (cause instanceof ConnectError) return cause;
    throw cause;
  });
  if (found instanceof ConnectError) return [error("login", found.message, found.hint ?? null)];
  const { route, socket, client } = found;
  try {
    const findings = [
      ok("login", `as ${settings.user} to the database ${settings.database}`),
      ...(await encryption(route, socket, settings)),
      await pooler(client, settings, direct),
    ];
    // All further examinations need transactions.
    if (findings.at(-1)?.severity === "error") return findings;
    for (const examine of examinations) findings.push(...(await examine(client)));
    if (direct) findings.push(await directAddress(client, direct));
    return findings;
  } finally {
    await client.end();
  }
}

const examinations: ((client: Client) => Promise<Finding[]>)[] = [server, rights, installation];
