/** The result of one examination, with the columns of `notika.health`. */
export interface Finding {
  finding: string;
  severity: "ok" | "warning" | "error";
  workflow: string | null;
  detail: string;
  /** The command that repairs it; null: nothing needs repair, or no command does. */
  remedy: string | null;
}

export const ok = make("ok");
export const warning = make("warning");
export const error = make("error");

function make(severity: Finding["severity"]) {
  return (finding: string, detail: string, remedy: string | null = null): Finding => ({
    finding,
    severity,
    workflow: null,
    detail,
    remedy,
  });
}
