import { workflow } from "../../../runner/index.ts";

/** Never ends by itself. */
export default workflow({
  retries: 0,
  timeout: "3 seconds",
  run: () => new Promise(() => {}),
});
