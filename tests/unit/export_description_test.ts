import { assertEquals } from "@std/assert";
import { describeExport, identityIn } from "../../src/export_description.ts";

const UUID = "0e2c1d9a-5b0c-4d1e-9a3f-6f1c2b7d8e90";

Deno.test("attach reads from an export's description what the server wrote there, whatever the bucket is called", () => {
  for (const name of ["s3://disk", "file:/a, volume b unbroken since epoch 3", "file:/größer"]) {
    const described = describeExport(name, UUID, 12);
    assertEquals(identityIn(described), { uuid: UUID, unbrokenSince: 12 });
  }
});

Deno.test("another server's description is no drive's", () => {
  for (
    const text of ["", "a disk", `ElasticDrive s3://disk, volume ${UUID}`, "ElasticDrive s3://disk"]
  ) {
    assertEquals(identityIn(text), undefined);
  }
});
