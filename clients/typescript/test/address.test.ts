import assert from "node:assert/strict";
import { afterEach, test } from "node:test";

import { isLocal, resolveAddresses } from "../src/address.js";

afterEach(() => {
  delete process.env.RETINUE_SERVER;
});

for (const [given, targets] of [
  ["example.org:9000", ["example.org:9000"]],
  ["example.org", ["example.org:8001"]],
  ["[::1]:9000", ["[::1]:9000"]],
  ["[::1]", ["[::1]:8001"]],
  ["unix:/run/a.sock", ["unix:/run/a.sock"]],
  ["a:1, b,a:1", ["a:1", "b:8001"]],
  ["ipv4:10.0.0.1:1,10.0.0.2:1", ["ipv4:10.0.0.1:1,10.0.0.2:1"]],
] as const) {
  test(`${given} leads to ${targets}`, () => {
    assert.deepEqual(resolveAddresses(given), targets);
  });
}

test("an address that is left out is what the environment says, or this machine", () => {
  assert.deepEqual(resolveAddresses(), ["localhost:8001"]);
  process.env.RETINUE_SERVER = "a:1,b:2";
  assert.deepEqual(resolveAddresses(), ["a:1", "b:2"]);
});

for (const wrong of ["", "http://a:1", "a/b", "a:0", "a:65536", "a:x", "::1", "a:1,"]) {
  test(`"${wrong}" is no address`, () => {
    assert.throws(() => resolveAddresses(wrong), { name: "TypeError", message: /HOST:PORT|brackets/ });
  });
}

for (const [target, local] of [
  ["localhost:1", true],
  ["127.0.0.1:1", true],
  ["[::1]:1", true],
  ["unix:/run/a.sock", true],
  ["dns:localhost:1", true],
  ["dns://8.8.8.8/localhost:1", true],
  ["ipv4:127.0.0.1:1", true],
  ["dns://localhost/example.org:1", false],
  ["ipv4:127.0.0.1:1,10.0.0.1:1", false],
  ["127.0.0.1.example.org:1", false],
  ["localhost@example.org:1", false],
  ["10.0.0.1:1", false],
] as const) {
  test(`what is sent to ${target} ${local ? "stays here" : "does not stay here"}`, () => {
    assert.equal(isLocal(target), local);
  });
}
