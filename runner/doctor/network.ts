import { isIP } from "node:net";
import { type Address, addresses, dial } from "../connection/dial.ts";
import type { HostError } from "../connection/errors.ts";
import { resolve } from "../connection/resolve.ts";
import { type Place, type Settings, socketFile } from "../connection/settings.ts";
import { error, type Finding, ok } from "./finding.ts";

/** Examines which addresses the hosts have, and whether each accepts connections. */
export async function network(settings: Settings): Promise<Finding[]> {
  const found = await Promise.all(settings.places.map((place) => examinePlace(place, settings)));
  const reached = found.flat().some(({ finding, severity }) => finding === "address" && severity === "ok");
  // An error at one address is only a warning while another works.
  return found.flat().map((one) => (reached && one.severity === "error" ? { ...one, severity: "warning" } : one));
}

async function examinePlace(place: Place, settings: Settings): Promise<Finding[]> {
  const found = await addresses(place, settings).catch((): Address[] => []);
  const reached = await Promise.all(found.map((address) => examineAddress(address, settings)));
  return [...(await examineName(place, settings)), ...reached];
}

async function examineName(place: Place, { timeout }: Settings): Promise<Finding[]> {
  const name = place.address ?? place.host;
  if (isIP(name) || socketFile(place) !== undefined) return [];
  const families = await Promise.all(
    ([4, 6] as const).map(async (family) => {
      const found = await resolve(name, timeout, family).catch((): string[] => []);
      return { found, text: `IPv${family} ${found.join(", ") || "none"}` };
    }),
  );
  const detail = `${name}: ${families.map(({ text }) => text).join(", ")}`;
  if (families.some(({ found }) => found.length > 0)) return [ok("name", detail)];
  const { message, hint = null } = (await resolve(name, timeout).catch((cause: HostError) => cause)) as HostError;
  return [error("name", `${detail}: ${message}`, hint)];
}

async function examineAddress(address: Address, settings: Settings): Promise<Finding> {
  const { place, ip } = address;
  const name = socketFile(place)?.replace("\0", "@") ?? `${isIP(ip ?? "") === 6 ? `[${ip}]` : ip}:${place.port}`;
  const family = ip === undefined ? "Unix socket" : `IPv${isIP(ip)}`;
  try {
    const socket = await dial(address, settings, "plain");
    socket.destroy();
    return ok("address", `${name} (${family}) accepts connections`);
  } catch (cause) {
    const { message, hint = null } = cause as HostError;
    return error("address", `${name} (${family}): ${message}`, hint);
  }
}
