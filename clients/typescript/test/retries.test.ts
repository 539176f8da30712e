import assert from "node:assert/strict";
import { test } from "node:test";

import {
  InvalidRequestError,
  OverloadedError,
  ServerError,
  ServerUnreachableError,
  UnavailableError,
} from "../src/index.js";
import { RetryBudget } from "../src/retries.js";
import { Turns } from "../src/turns.js";

const DRAINING = new UnavailableError("", { reason: "DRAINING" });

function delay(error: Error, attempts = 1, leftSeconds = 60, budget = new RetryBudget()) {
  return budget.delaySeconds(error as UnavailableError, { attempts, lost: 0 }, leftSeconds, 0);
}

test("the server's advice is followed where it is longer than the delay, which doubles", () => {
  assert.equal(delay(new OverloadedError("", { retryAfterSeconds: 0.7 })), 0.7);
  assert.equal(delay(new OverloadedError("", { retryAfterSeconds: 0.001 }), 3), 0.2);
  assert.deepEqual(
    [1, 2, 3, 4].map((attempts) => delay(DRAINING, attempts)),
    [0.05, 0.1, 0.2, 0.4],
  );
});

test("what cannot get better is not sent again", () => {
  for (const error of [
    new InvalidRequestError(""),
    new ServerError(""),
    new OverloadedError(""),
    new ServerUnreachableError("", { reason: "TLS_FAILED" }),
  ]) {
    assert.equal(delay(error), undefined);
  }
});

test("nothing is sent again after its deadline, after the last try, or in an hour", () => {
  assert.equal(delay(DRAINING, 1, 0.04), undefined);
  assert.equal(delay(DRAINING, 5), undefined);
  assert.equal(delay(new OverloadedError("", { retryAfterSeconds: 3600 }), 1, 9999), undefined);
});

test("a request over which two connections were lost is not sent a third time", () => {
  const lost = new UnavailableError("", { reason: "CONNECTION_LOST" });
  const tries = { attempts: 1, lost: 0 };
  const budget = new RetryBudget();
  assert.notEqual(budget.delaySeconds(lost, tries, 60), undefined);
  assert.equal(budget.delaySeconds(lost, tries, 60), undefined);
});

test("of the requests of a server that goes on failing only a share comes twice", () => {
  const budget = new RetryBudget({ burst: 2 });
  assert.deepEqual(
    [1, 2, 3].map(() => delay(DRAINING, 1, 60, budget) !== undefined),
    [true, true, false],
  );
  for (let answers = 0; answers < 10; answers++) budget.earn();
  assert.notEqual(delay(DRAINING, 1, 60, budget), undefined);
});

test("what reached nobody takes no token", () => {
  const budget = new RetryBudget({ burst: 0 });
  assert.notEqual(delay(new ServerUnreachableError(""), 1, 60, budget), undefined);
  assert.equal(delay(DRAINING, 1, 60, budget), undefined);
});

test("numbers that make no sense are refused", () => {
  assert.throws(() => new RetryBudget({ maxAttempts: 0 }), TypeError);
  assert.throws(() => new RetryBudget({ firstDelaySeconds: -1 }), TypeError);
});

test("a server that took nothing is passed over and then tried by one", () => {
  let now = 100;
  const turns = new Turns(3, () => now);
  const next = (count: number) => Array.from({ length: count }, () => turns.next());
  assert.deepEqual(next(4), [0, 1, 2, 0]);
  turns.setAside(1);
  assert.deepEqual(next(4), [2, 2, 0, 2]);
  now += 1.5;
  assert.equal(next(6).filter((place) => place === 1).length, 1);
  turns.answered(1);
  assert.deepEqual(next(3).sort(), [0, 1, 2]);
});

test("where none takes anything they are asked all the same, and another one than the last time", () => {
  const turns = new Turns(2, () => 1);
  turns.setAside(0);
  turns.setAside(1);
  assert.deepEqual([turns.next(), turns.next()].sort(), [0, 1]);
  assert.equal(turns.next(0), 1);
  assert.equal(
    new Turns(2).next(undefined, (place) => place === 0),
    1,
  );
  assert.equal(new Turns(1).next(0), 0);
});
