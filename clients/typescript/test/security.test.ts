import assert from "node:assert/strict";
import { mkdtempSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, test } from "node:test";

import { resolveSecurity } from "../src/security.js";

const HERE = ["localhost:8001"];
const ELSEWHERE = ["localhost:8001", "example.org:8001"];

afterEach(() => {
  for (const name of ["RETINUE_TOKEN", "RETINUE_TLS_CA", "RETINUE_CLIENT_CERTIFICATE"])
    delete process.env[name];
});

test("a token is not sent to other machines without TLS", () => {
  assert.equal(resolveSecurity(HERE, undefined, "secret").token, "secret");
  assert.equal(resolveSecurity(ELSEWHERE, {}, "secret").token, "secret");
  assert.throws(() => resolveSecurity(ELSEWHERE, undefined, "secret"), {
    name: "TypeError",
    message: /not sent to localhost:8001,example.org:8001 without TLS/,
  });
});

test("what is left out is what the environment says", () => {
  process.env.RETINUE_TOKEN = "secret";
  assert.throws(() => resolveSecurity(ELSEWHERE), /without TLS/);
  assert.equal(resolveSecurity(ELSEWHERE, undefined, "").token, "");
  process.env.RETINUE_TLS_CA = "public";
  assert.equal(resolveSecurity(ELSEWHERE).token, "secret");
  process.env.RETINUE_CLIENT_CERTIFICATE = "mine.pem";
  assert.throws(() => resolveSecurity(ELSEWHERE), /need each other/);
});

test("a token that none can be is refused, and not repeated", () => {
  for (const token of ["two words", "new\nline", "naïve"]) {
    assert.throws(
      () => resolveSecurity(HERE, undefined, token),
      ({ message }: Error) => message.includes("printable ASCII") && !message.includes(token),
    );
  }
});

test("a file that is none, or no PEM, is named", () => {
  const text = join(mkdtempSync(join(tmpdir(), "retinue-")), "text.pem");
  writeFileSync(text, "no certificate");
  assert.throws(() => resolveSecurity(HERE, { ca: "missing.pem" }), /"missing.pem" cannot be read/);
  assert.throws(() => resolveSecurity(HERE, { ca: text }), /text.pem" is no PEM file/);
});
