/** What the requests of an application's API have in common. */
export interface Client {
  /** The path of everything. */
  base: string;
  headers: Record<string, string>;
  /** What differs between two runs of the same script: replaced by what it is. */
  varying: [pattern: RegExp, name: string][];
  /** Keys of a body whose values differ from run to run. */
  varyingKeys: string[];
}

export interface Request {
  body?: unknown;
  headers?: Record<string, string>;
}

export interface Answer {
  request: string;
  status: number;
  body: unknown;
  /** The body without what differs from run to run. */
  normalised: string;
}

// biome-ignore lint/suspicious/noExplicitAny: what an application answers is its own
export type Body = any;

/** Sends requests as a user's client does, and keeps the answers. */
export interface Api {
  send(request: string, options?: Request): Promise<Body>;
  /** The same, for many requests at the same time, whose answers come in any order. */
  together(requests: [request: string, options?: Request][], atOnce?: number): Promise<Body[]>;
  /** Headers of all requests that follow. */
  headers: Record<string, string>;
  answers: Answer[];
}

export function openApi(port: number, client: Client): Api {
  const answers: Answer[] = [];
  const headers: Record<string, string> = { ...client.headers };

  async function ask(request: string, { body, headers: own }: Request = {}): Promise<Answer> {
    const [method = "GET", path = ""] = request.split(" ");
    const isForm = body instanceof FormData;
    const isText = typeof body === "string" || body instanceof Blob;
    const response = await fetch(`http://127.0.0.1:${port}${client.base}${path}`, {
      method,
      headers: {
        connection: "close",
        ...(body !== undefined && !isForm && !isText && { "content-type": "application/json" }),
        ...headers,
        ...own,
      },
      ...(body !== undefined && { body: isForm || isText ? body : JSON.stringify(body) }),
      signal: AbortSignal.timeout(120_000),
    });
    const text = await response.text();
    const parsed = parse(text);
    return {
      request: vary(request, client),
      status: response.status,
      body: parsed,
      normalised: normalise(parsed, client),
    };
  }

  return {
    answers,
    headers,
    async send(request, options) {
      const answer = await ask(request, options);
      answers.push(answer);
      return answer.body;
    },
    async together(requests, atOnce = 12) {
      const queue = requests.map((request, index) => ({ request, index }));
      const got: Answer[] = [];
      await Promise.all(
        Array.from({ length: atOnce }, async () => {
          for (let next = queue.shift(); next; next = queue.shift()) got[next.index] = await ask(...next.request);
        }),
      );
      const order = ({ request, status, normalised }: Answer) => `${request} ${status} ${normalised}`;
      answers.push(...got.toSorted((a, b) => (order(a) < order(b) ? -1 : 1)));
      return got.map(({ body }) => body);
    },
  };
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function normalise(body: unknown, client: Client): string {
  // Columns that requests at the same time made are in any order.
  const inOrder = (value: object) => Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)));
  const text = JSON.stringify(body, (key, value) => {
    if (value !== null && typeof value === "object") return Array.isArray(value) ? value : inOrder(value);
    return client.varyingKeys.includes(key) && value !== null ? `<${key}>` : value;
  });
  return vary(text ?? "", client);
}

function vary(text: string, { varying }: Client): string {
  return varying.reduce((result, [pattern, name]) => result.replaceAll(pattern, `<${name}>`), text);
}
