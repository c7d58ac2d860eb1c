import { lookup } from "node:dns/promises";
import { isIP } from "node:net";
import { type Address, addresses, dial } from "../connection/dial.ts";
import type { Fault } from "../connection/fault.ts";
import { type Place, type Settings, socketFile } from "../connection/settings.ts";
import { error, type Finding, ok } from "./finding.ts";

/** Which addresses the hosts have, and whether somebody takes connections there: each on its own. */
export async function network(settings: Settings): Promise<Finding[]> {
  const found = await Promise.all(settings.places.map((place) => examinePlace(place, settings)));
  const reached = found.flat().some(({ finding, severity }) => finding === "address" && severity === "ok");
  // What is wrong with one way hardly matters while there is another.
  return found.flat().map((one) => (reached && one.severity === "error" ? { ...one, severity: "warning" } : one));
}

async function examinePlace(place: Place, settings: Settings): Promise<Finding[]> {
  const found = await addresses(place).catch((): Address[] => []);
  const reached = await Promise.all(found.map((address) => examineAddress(address, settings)));
  return [...(await examineName(place)), ...reached];
}

async function examineName(place: Place): Promise<Finding[]> {
  const name = place.address ?? place.host;
  if (isIP(name) || socketFile(place) !== undefined) return [];
  const [v4, v6] = await Promise.all(
    ([4, 6] as const).map((family) =>
      lookup(name, { family, all: true }).then(
        (found) => found.map(({ address }) => address).join(", "),
        ({ code }: NodeJS.ErrnoException) => (code === "EAI_AGAIN" ? new Error("no name server answers") : undefined),
      ),
    ),
  );
  const texts = [v4, v6].map((found, index) => {
    const family = index === 0 ? "IPv4" : "IPv6";
    return `${family} ${found === undefined ? "none" : found instanceof Error ? found.message : found}`;
  });
  const detail = `${name}: ${texts.join(", ")}`;
  if (typeof v4 === "string" || typeof v6 === "string") return [ok("name", detail)];
  return [error("name", detail, "Is the name of the host right, and is this machine on the network?")];
}

async function examineAddress(address: Address, settings: Settings): Promise<Finding> {
  const { place, ip } = address;
  const name = socketFile(place)?.replace("\0", "@") ?? `${isIP(ip ?? "") === 6 ? `[${ip}]` : ip}:${place.port}`;
  const family = ip === undefined ? "Unix socket" : `IPv${isIP(ip)}`;
  try {
    const socket = await dial(address, settings, "plain");
    socket.destroy();
    return ok("address", `${name} (${family}) takes connections`);
  } catch (cause) {
    const { message, hint = null } = cause as Fault;
    return error("address", `${name} (${family}): ${message}`, hint);
  }
}
