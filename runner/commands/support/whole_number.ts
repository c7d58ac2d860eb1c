import { UsageError } from "../../errors.ts";

/** The value of an option that is a whole number from 1. */
export function wholeNumber(option: string, value: string): number {
  if (!/^[1-9]\d{0,5}$/.test(value)) throw new UsageError(`${option} needs a whole number from 1, not ${value}`);
  return Number(value);
}
