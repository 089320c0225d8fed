/** A service manager's end of sd_notify(3): a datagram socket, as systemd has it, that gives what it is told. */
import { TextLineStream } from "./text_lines.ts";

const LISTEN = `
import json, socket, sys
listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
path = sys.argv[1]
listener.bind("\\0" + path[1:] if path[0] == "@" else path)
print(json.dumps("bound"), flush=True)
while True:
    print(json.dumps(listener.recv(65536).decode()), flush=True)
`;

export class NotifyListener implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #messages: ReadableStreamDefaultReader<string>;

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#messages = child.stdout.pipeThrough(new TextLineStream()).getReader();
  }

  /** @param path a file, or an abstract address that begins with `@` */
  static async bind(path: string): Promise<NotifyListener> {
    const args = ["-c", LISTEN, path];
    const command = new Deno.Command("/usr/bin/python3", { args, stdin: "null", stdout: "piped" });
    const listener = new NotifyListener(command.spawn());
    await listener.next();
    return listener;
  }

  /** The next message, split into lines. */
  async next(): Promise<string[]> {
    const { value, done } = await this.#messages.read();
    if (done) throw new Error("the listener has ended");
    return JSON.parse(value).split("\n");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.kill("SIGKILL");
    await this.#messages.cancel();
    await this.#child.status;
  }
}
