import { describe, expect } from "vitest";
import { openEmbedded } from "../../runner/embedded/embedded.ts";
import { listenTcp } from "../../runner/embedded/server.ts";
import { installVersion } from "../../runner/install/bundle.ts";
import { install } from "../../runner/install/install.ts";
import { test } from "../support/database.ts";
import { pageNames, readPage } from "../support/page.ts";
import { openShell } from "../support/shell.ts";
import { settingOf } from "./settings.ts";

describe("the commands of a page run as they are written:", async () => {
  for (const name of await pageNames()) {
    const { database = "", files = {}, prints = /^$/, commandsIn } = settingOf(name);
    const blocks = (await readPage(name)).blocks("sh");
    if (blocks.length === 0 || commandsIn) continue;

    test(name, async ({ onTestFinished }) => {
      const embedded = await openEmbedded({ prepare: install, version: await installVersion() });
      const server = await listenTcp(embedded.wire, 0, "127.0.0.1");
      await embedded.db.exec(database);
      const DATABASE_URL = `postgres://postgres@127.0.0.1:${server.port}/postgres`;
      const shell = await openShell({ files, env: { DATABASE_URL } });
      onTestFinished(async () => {
        await shell.close();
        await server.close();
        await embedded.close();
      });

      expect(await shell.run(blocks.join("\n"))).toMatch(prints);
    }, 120_000);
  }
});
