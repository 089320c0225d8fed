import { assertRejects } from "@std/assert";
import { UsageError } from "../../../src/errors.ts";
import { connectToDrive } from "../../../src/linux/drive_connection.ts";

Deno.test("a drive that is in TLS on TCP and has no socket can't be attached, and that is said", async () => {
  const server = { listen: "127.0.0.1", port: 1, tlsCert: "/cert.pem" };
  await assertRejects(() => connectToDrive(server), UsageError, "allowed: with a line for socket");
});
