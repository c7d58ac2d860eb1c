// A workflow that the deployment brings.
export { default } from "../tasks/record_change.ts";
