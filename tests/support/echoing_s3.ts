/**
 * A way to an S3 server that at times answers itself, and then says all that it was sent: `await using s3 = await
 * startEchoingS3(server.endpoint);  s3.answers = "refusals";`. What a client signed and sent is kept, for a test that
 * looks for it where it must not be.
 */

/** What it says: nothing of its own, an S3 error with everything in its message, or something that is no XML. */
export type Answers = "passed on" | "refusals" | "no XML";

export interface EchoingS3 extends AsyncDisposable {
  readonly endpoint: string;
  answers: Answers;
  /** Values of the headers that a client proves with who it is. */
  readonly proofs: ReadonlySet<string>;
}

export function startEchoingS3(server: string): EchoingS3 {
  const proofs = new Set<string>();
  const answer = async (request: Request): Promise<Response> => {
    const authorization = request.headers.get("authorization") ?? "";
    const signature = /Signature=(\w+)/.exec(authorization)?.[1] ?? "";
    if (signature !== "") proofs.add(signature);
    if (s3.answers === "passed on") return await passOn(request, server);
    await request.body?.cancel();
    const sent = [...request.headers].map(([name, value]) => `${name}:${value}`).join("\n");
    if (s3.answers === "no XML") return new Response(`<html>${sent}<p>`, { status: 403 });
    const text = escapeXml(
      `The signature ${signature} does not match what was sent:\n${sent}\u009b2J`,
    );
    const code = "SignatureDoesNotMatch";
    return new Response(
      `<?xml version="1.0" encoding="UTF-8"?><Error><Code>${code}</Code><Message>${text}</Message>` +
        `<StringToSign>${text}</StringToSign><SignatureProvided>${signature}</SignatureProvided></Error>`,
      { status: 403, headers: { "content-type": "application/xml" } },
    );
  };
  const http = Deno.serve({ hostname: "127.0.0.1", port: 0, onListen() {} }, answer);
  const s3: EchoingS3 = {
    endpoint: `http://127.0.0.1:${http.addr.port}`,
    answers: "passed on",
    proofs,
    async [Symbol.asyncDispose]() {
      await http.shutdown();
    },
  };
  return s3;
}

async function passOn(request: Request, server: string): Promise<Response> {
  const { pathname, search } = new URL(request.url);
  const body = request.body === null ? undefined : await request.arrayBuffer();
  const { method, headers } = request;
  const answer = await fetch(server + pathname + search, { method, headers, body });
  const { status } = answer;
  // whole, so that its length is announced
  const bytes = await answer.arrayBuffer();
  const isEmpty = status === 204 || status === 304 || method === "HEAD";
  return new Response(isEmpty ? null : bytes, { status, headers: answer.headers });
}

function escapeXml(text: string): string {
  return text.replace(/[&<>]/g, (c) => `&#${c.charCodeAt(0)};`);
}
