import assert from "node:assert/strict";
import { test } from "node:test";

import { create } from "@bufbuild/protobuf";
import { status } from "@grpc/grpc-js";

import { ClassifyResponseSchema } from "../src/gen/retinue/v1/vision_service_pb.js";
import { Classification, Client, ImageError } from "../src/index.js";
import { answer, type ClassifyRequest, refusal, withStandIn } from "./stand_in.js";

const images = (count: number) => Array.from({ length: count }, (_, index) => Buffer.from(`image ${index}`));

test("a long list is cut into requests, two at once, and answered in order", async () => {
  const sizes: number[] = [];
  let [underWay, most] = [0, 0];
  const release: (() => void)[] = [];
  await withStandIn(
    async (request) => {
      sizes.push(request.images.length);
      most = Math.max(most, ++underWay);
      // Of two requests the later one is answered first.
      await new Promise<void>((resolve) => {
        release.push(resolve);
        if (release.length === 2 || sizes.length === 5) for (const one of release.splice(0).reverse()) one();
      });
      underWay--;
      return answer(request);
    },
    async (client) => {
      const outcomes = await client.classify(images(18));
      assert.deepEqual(
        outcomes.map((outcome) => outcome instanceof Classification && outcome.best?.label),
        images(18).map(String),
      );
    },
    { maxRequestImages: 4, maxRequestBytes: 1000 },
  );
  assert.deepEqual(sizes, [4, 4, 4, 4, 2]);
  assert.equal(most, 2);
});

test("a list of many bytes is cut, too", async () => {
  const sizes: number[] = [];
  await withStandIn(
    (request) => {
      sizes.push(request.images.length);
      return answer(request);
    },
    async (client) => {
      assert.equal((await client.classify(images(5))).length, 5);
    },
    { maxRequestBytes: 20 },
  );
  assert.deepEqual(sizes, [2, 2, 1]);
});

test("an image that cannot be read is in no request, and keeps its place", async () => {
  await withStandIn(answer, async (client) => {
    async function* sources() {
      yield "missing.jpg";
      yield Buffer.from("an image");
    }
    const [first, second] = await client.classify(sources());
    assert.ok(first instanceof ImageError && first.reason === "FILE_NOT_FOUND");
    assert.ok(second instanceof Classification);
    assert.deepEqual(await client.classify([]), []);
  });
});

test("a refusal that may get better is asked again, and within the deadline of the first time", async () => {
  const deadlines: number[] = [];
  await withStandIn(
    (request, call) => {
      deadlines.push((call.getDeadline() as Date).valueOf());
      if (deadlines.length === 1) throw refusal("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.02);
      if (deadlines.length === 2) throw refusal("UNAVAILABLE", "DRAINING");
      return answer(request);
    },
    async (client) => {
      const result = await client.classify(Buffer.from("red"), { timeoutSeconds: 5 });
      assert.equal(result.best?.label, "red");
    },
  );
  assert.equal(deadlines.length, 3);
  // gRPC sends how much time is left, in whole milliseconds.
  assert.ok(Math.max(...deadlines) - Math.min(...deadlines) < 20, `deadlines ${deadlines}`);
});

for (const [code, reason, retryAfterSeconds, name] of [
  ["INVALID_ARGUMENT", "OPTION_INVALID", undefined, "InvalidRequestError"],
  ["NOT_FOUND", "MODEL_NOT_FOUND", undefined, "ModelNotFoundError"],
  ["FAILED_PRECONDITION", "WRONG_TASK", undefined, "WrongTaskError"],
  ["RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.5, "OverloadedError"],
  ["PERMISSION_DENIED", "SCOPE_MISSING", undefined, "AuthenticationError"],
  ["INTERNAL", "MODEL_HUNG", undefined, "ServerError"],
  ["DEADLINE_EXCEEDED", "DEADLINE_EXPIRED", undefined, "DeadlineExceededError"],
] as const) {
  test(`${reason} is a ${name}, told at once where no time is left for another try`, async () => {
    let asked = 0;
    await withStandIn(
      () => {
        asked++;
        throw refusal(code, reason, retryAfterSeconds);
      },
      async (client) => {
        await assert.rejects(client.classify(Buffer.from("red"), { timeoutSeconds: 0.4 }), {
          ...{ name, code, reason, retryAfterSeconds },
        });
      },
    );
    assert.equal(asked, 1);
  });
}

test("who closes connections at once may speak TLS, or be about to end: it is asked again", async () => {
  let asked = 0;
  await withStandIn(
    (request) => {
      if (++asked > 1) return answer(request);
      const details = "No connection established. Last error: Failed to connect";
      throw Object.assign(new Error(details), { code: status.UNAVAILABLE, details });
    },
    async (client) => {
      assert.equal((await client.classify(Buffer.from("red"))).best?.label, "red");
    },
  );
  assert.equal(asked, 2);
});

test("a request that is too large is the error of its image where it has only one", async () => {
  await withStandIn(
    (request) => {
      if (String(request.images[0]?.source.value).length > 9) {
        throw refusal("INVALID_ARGUMENT", "REQUEST_TOO_LARGE");
      }
      return answer(request);
    },
    async (client) => {
      const outcomes = await client.classify([Buffer.from("red"), Buffer.from("a large image")]);
      assert.deepEqual(
        outcomes.map((outcome) => (outcome instanceof ImageError ? outcome.reason : outcome.best?.label)),
        ["red", "REQUEST_TOO_LARGE"],
      );
    },
    { maxRequestImages: 1 },
  );
});

test("a call that is cancelled is rejected with the signal's reason, and cancelled at the server", async () => {
  const cancelled = new Promise<void>((resolve) => {
    withStandIn(
      (_, call) => {
        call.on("cancelled", resolve);
        controller.abort(new Error("enough"));
        return new Promise(() => undefined);
      },
      async (client) => {
        const { signal } = controller;
        await assert.rejects(client.classify(Buffer.from("red"), { signal }), { message: "enough" });
        await assert.rejects(client.classify([Buffer.from("red")], { signal }), { message: "enough" });
        await cancelled;
      },
    );
  });
  const controller = new AbortController();
  await cancelled;
});

test("waiting for another try is cancelled, too", async () => {
  const controller = new AbortController();
  await withStandIn(
    () => {
      setImmediate(() => controller.abort(new Error("enough")));
      throw refusal("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.9);
    },
    async (client) => {
      const { signal } = controller;
      await assert.rejects(client.classify(Buffer.from("red"), { signal }), { message: "enough" });
    },
  );
});

test("a call is cancelled while whoever gives the images pauses", async () => {
  const controller = new AbortController();
  let paused: (images: undefined) => void = () => undefined;
  await withStandIn(answer, async (client) => {
    async function* sources() {
      yield Buffer.from("red");
      setImmediate(() => controller.abort(new Error("enough")));
      await new Promise((resolve) => {
        paused = resolve;
      });
    }
    const { signal } = controller;
    await assert.rejects(client.classify(sources(), { signal }), { message: "enough" });
    paused(undefined);
  });
});

test("closing a client ends the wait before another try", async () => {
  await withStandIn(
    () => {
      throw refusal("RESOURCE_EXHAUSTED", "QUEUE_FULL", 0.9);
    },
    async (client) => {
      const call = client.classify(Buffer.from("red"), { timeoutSeconds: 3600 });
      call.catch(() => undefined);
      // Its refusal has come when the next call's has.
      await assert.rejects(client.classify(Buffer.from("red"), { timeoutSeconds: 0.8 }), {
        reason: "QUEUE_FULL",
      });
      client.close();
      await assert.rejects(call, { reason: "CANCELLED" });
    },
    { retries: { firstDelaySeconds: 600, longestDelaySeconds: 600 } },
  );
});

test("a deadline that passes is an error that says so", async () => {
  await withStandIn(
    () => new Promise(() => undefined),
    async (client) => {
      await assert.rejects(client.classify(Buffer.from("red"), { timeoutSeconds: 0.1 }), {
        name: "DeadlineExceededError",
        message: /did not answer within 0.1 s/,
      });
    },
  );
});

test("a client that is closed ends its calls and takes no more", async () => {
  let ask: () => void;
  const asked = new Promise<void>((resolve) => {
    ask = resolve;
  });
  await withStandIn(
    () => {
      ask();
      return new Promise(() => undefined);
    },
    async (client) => {
      const call = client.classify(Buffer.from("red"));
      await asked;
      client.close();
      await assert.rejects(call, { name: "UnavailableError", reason: "CANCELLED" });
      await assert.rejects(client.classify(Buffer.from("red")), /closed/);
    },
  );
});

const RESULT = (score: number, classId = 0) => ({
  outcome: { case: "result" as const, value: { classes: [{ classId, label: "", score }] } },
});

for (const [what, outcomes] of [
  ["no outcome", []],
  ["two outcomes for one image", [RESULT(1), RESULT(1)]],
  ["an outcome that is empty", [{}]],
  ["a score that is none", [RESULT(Number.NaN)]],
  ["a score that is too large", [RESULT(2)]],
  ["a class id that is none", [RESULT(1, -1)]],
] as const) {
  test(`${what} is an answer against the protocol`, async () => {
    await withStandIn(
      () => create(ClassifyResponseSchema, { outcomes: [...outcomes] }),
      async (client) => {
        await assert.rejects(client.classify(Buffer.from("red")), { name: "ResponseError" });
      },
    );
  });
}

test("one answer of several that is against the protocol is the error of its image", async () => {
  await withStandIn(
    (request) => {
      const outcomes = [RESULT(2), RESULT(1)].slice(0, request.images.length);
      return create(ClassifyResponseSchema, { outcomes });
    },
    async (client) => {
      const [first, second] = await client.classify(images(2));
      assert.ok(first instanceof ImageError && first.reason === "RESPONSE_INVALID");
      assert.ok(second instanceof Classification);
    },
  );
});

test("an option that is none, or cannot be sent, is told before anything is sent", async () => {
  await withStandIn(answer, async (client) => {
    const red = Buffer.from("red");
    await assert.rejects(client.classify(red, { top_k: 1 } as object), /no option top_k; it has .*topK/);
    await assert.rejects(client.classify(red, { topK: 2 ** 40 }), { name: "InvalidRequestError" });
    await assert.rejects(client.classify(red, { topK: 1.5 }), { name: "InvalidRequestError" });
    await assert.rejects(client.classify(red, { priority: "urgent" as "high" }), /high, normal, low/);
    await assert.rejects(client.classify(red, { metadata: { "Not-Lower": "a" } }), /lower-case/);
    await assert.rejects(client.classify(red, { metadata: { authorization: "Bearer a" } }), {
      name: "InvalidRequestError",
      message: /\{ token \}/,
    });
    await assert.rejects(client.segment(red, { maskFormat: "jpeg" as "png" }), /raw, coco_rle, png/);
    await assert.rejects(client.classify(5 as unknown as string), TypeError);
  });
});

test("details that somebody has damaged are as good as absent", async () => {
  await withStandIn(
    () => {
      const error = refusal("NOT_FOUND", "no such model");
      error.metadata.set("grpc-status-details-bin", Buffer.from("damaged"));
      throw error;
    },
    async (client) => {
      await assert.rejects(client.classify(Buffer.from("red")), {
        name: "ModelNotFoundError",
        reason: "NOT_FOUND",
        message: "no such model",
      });
    },
  );
});

for (const listed of ["ipv4:A,B", "A,B"]) {
  test(`several servers have turns: ${listed}`, async () => {
    const asked = new Set<string>();
    const answering = (name: string) => (request: ClassifyRequest) => {
      asked.add(name);
      return answer(request);
    };
    await withStandIn(answering("A"), (first) =>
      withStandIn(answering("B"), async (second) => {
        using client = new Client(listed.replace("A", first.address).replace("B", second.address));
        // At first only one of them may be connected.
        for (let calls = 0; calls < 200 && asked.size < 2; calls++) await client.classify(Buffer.from("red"));
      }),
    );
    assert.deepEqual([...asked].sort(), ["A", "B"]);
  });
}

test("what one server refuses is asked of the next", async () => {
  const draining = () => {
    throw refusal("UNAVAILABLE", "DRAINING");
  };
  await withStandIn(draining, (first) =>
    withStandIn(answer, async (second) => {
      using client = new Client(`${first.address},${second.address}`);
      for (let calls = 0; calls < 4; calls++) {
        assert.equal((await client.classify(Buffer.from("red"))).best?.label, "red");
      }
    }),
  );
});

test("one server that goes on loading costs a request now and then, and not all that may be sent again", async () => {
  let refused = 0;
  const loading = () => {
    refused++;
    throw refusal("UNAVAILABLE", "LOADING");
  };
  await withStandIn(loading, (first) =>
    withStandIn(answer, async (second) => {
      using client = new Client(`${first.address},${second.address}`, {
        retries: { burst: 5, tokensPerAnswer: 0, firstDelaySeconds: 0.001 },
      });
      for (let calls = 0; calls < 40; calls++) {
        assert.equal((await client.classify(Buffer.from("red"))).best?.label, "red");
      }
    }),
  );
  // Within a second it is asked once.
  assert.ok(refused >= 1 && refused <= 5, `asked ${refused} times`);
});
