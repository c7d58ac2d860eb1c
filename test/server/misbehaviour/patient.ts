import { workflow } from "../../../runner/index.ts";
import { type Call, ways } from "./misbehave.ts";

/** Does the same, and is tried again. */
export default workflow({
  retries: 3,
  run: (call) => ways[(call as unknown as Call).event.new.kind](call as unknown as Call),
});
