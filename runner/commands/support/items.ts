/** The items of a list that commas separate. */
export function items(text: string | undefined): string[] | undefined {
  return text?.split(",").map((item) => item.trim());
}
