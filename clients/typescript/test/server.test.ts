/** Against a real server on tiny bundles, which tests/integration/test_typescript_client.py starts. */

import assert from "node:assert/strict";
import { join } from "node:path";
import { after, test } from "node:test";

import { Classification, Client, ImageError, type MaskFormat, RetinueError } from "../src/index.js";

// What the tests of Python say: where the servers are, and a folder with image files and credentials.
const {
  RETINUE_TEST_SERVER,
  RETINUE_TEST_HTTP = "",
  RETINUE_TEST_SECURED = "",
  RETINUE_TEST_FOLDER = "",
} = process.env;
const client = new Client(RETINUE_TEST_SERVER);
const served = { skip: RETINUE_TEST_SERVER === undefined };
const file = (name: string) => join(RETINUE_TEST_FOLDER, name);

const COLOURS = { red: [255, 0, 0], green: [0, 255, 0], blue: [0, 0, 255] };
const CLASSIFIER = { model: "colour-classifier" };

after(() => client.close());

/** Pixels of which each column has a colour. */
function columns(...names: (keyof typeof COLOURS)[]) {
  const height = 8;
  const row = names.flatMap((name) => COLOURS[name]);
  return { data: Uint8Array.from(Array(height).fill(row).flat()), width: names.length, height };
}

test("an image has the same answer as a file, as bytes and as pixels", served, async () => {
  for (const form of [file("red.png"), columns("red", "red")]) {
    const result = await client.classify(form, CLASSIFIER);
    assert.equal(result.best?.label, "red");
    assert.equal(result.best?.classId, 0);
    assert.deepEqual([result.model, result.version], ["colour-classifier", 1]);
    assert.ok(result.timing.totalUs > 0 && result.timing.batchSize >= 1);
    assert.equal([...result].length, 3);
  }
});

test("only as many classes come as are asked for", served, async () => {
  const options = { ...CLASSIFIER, topK: 2, minScore: 0.1 };
  const result = await client.classify(columns("green"), options);
  assert.deepEqual(
    result.classes.map(({ label }) => label),
    ["green"],
  );
});

test("a heatmap is a PNG", served, async () => {
  const result = await client.classify(columns("red", "blue"), { model: "colour-locator", heatmap: true });
  assert.equal(Buffer.from(result.encodedHeatmap ?? []).toString("latin1", 1, 4), "PNG");
  assert.match(JSON.stringify(result), /"heatmap":\{"format":"png","base64":"iVBOR/);
});

test("bad images are values among the answers of the others", served, async () => {
  const outcomes = await client.detect(
    [
      columns("blue"),
      file("truncated.png"),
      Buffer.alloc(0),
      file("missing.png"),
      { data: new Uint8Array(7), width: 2, height: 2 },
      file("red.png"),
    ],
    { model: "colour-detector" },
  );
  assert.deepEqual(
    outcomes.map((outcome) =>
      outcome instanceof ImageError ? outcome.reason : outcome.detections[0]?.label,
    ),
    ["blue", "IMAGE_UNDECODABLE", "IMAGE_EMPTY", "FILE_NOT_FOUND", "PIXELS_UNSUPPORTED", "red"],
  );
  await assert.rejects(client.detect(file("truncated.png"), { model: "colour-detector" }), {
    name: "ImageError",
    source: file("truncated.png"),
  });
});

test("a list longer than a request may be is answered in order", served, async () => {
  const names = Object.keys(COLOURS) as (keyof typeof COLOURS)[];
  const expected = Array.from({ length: 300 }, (_, index) => names[index % 3] as keyof typeof COLOURS);
  const outcomes = await client.classify(
    expected.map((name) => columns(name)),
    CLASSIFIER,
  );
  assert.deepEqual(
    outcomes.map((outcome) => outcome instanceof Classification && outcome.best?.label),
    expected,
  );
});

test("boxes are in the pixels of the given image", served, async () => {
  const found = await client.detect(columns("green", "green", "green", "green"), {
    model: "colour-detector",
  });
  assert.deepEqual([found.imageWidth, found.imageHeight, found.length], [4, 8, 1]);
  const [detection] = found;
  assert.deepEqual(detection?.box, [0, 0, 2, 8]);
  assert.deepEqual([detection?.label, detection?.score], ["green", 1]);
});

test("regions, masks, keypoints and the classes of what is found", served, async () => {
  const image = columns("red", "red", "blue", "blue");
  const found = await client.detect(
    { image, regions: [[2, 0, 4, 8]] },
    { model: "colour-regions", masks: true, classifyWith: { ...CLASSIFIER, topK: 1 } },
  );
  const [detection] = found;
  assert.deepEqual([found.length, detection?.label], [1, "blue"]);
  // Its mask is the left half of its box, its keypoint the middle.
  assert.deepEqual([...(detection?.mask?.decode() ?? [])], Array(8).fill([0, 0, 1, 0]).flat());
  assert.deepEqual(
    detection?.keypoints.map(({ name, x, y }) => [name, x, y]),
    [["middle", 3, 4]],
  );
  assert.equal(detection?.classes[0]?.label, "blue");
  assert.equal(found.classifier, "colour-classifier");
});

for (const maskFormat of ["raw", "coco_rle"] satisfies MaskFormat[]) {
  test(`a class map is the same in every format: ${maskFormat}`, served, async () => {
    // So many that resizing to the network's eight columns mixes none.
    const image = columns(...Array(8).fill("red"), ...Array(16).fill("blue"), ...Array(8).fill("green"));
    const result = await client.segment(image, { maskFormat });
    const row = [...Array(8).fill(0), ...Array(16).fill(2), ...Array(8).fill(1)];
    assert.deepEqual([...result.classMap], Array(8).fill(row).flat());
    assert.deepEqual([result.width, result.height, result.areas[0]?.label], [32, 8, "blue"]);
    assert.equal(
      result.mask("blue").reduce((sum, inside) => sum + inside, 0),
      result.areas[0]?.areaPixels,
    );
    assert.equal(result.mask("violet").indexOf(1), -1);
  });
}

test("a class map of some classes has none elsewhere", served, async () => {
  const result = await client.segment(columns("red"), { maskFormat: "coco_rle", classes: "blue" });
  assert.deepEqual([...result.classMap], Array(8).fill(-1));
});

test("a class map comes as a PNG, and in the model's own size", served, async () => {
  const png = await client.segment(columns("red"), { maskFormat: "png" });
  assert.equal(Buffer.from(png.encoded ?? []).toString("latin1", 1, 4), "PNG");
  assert.throws(() => png.classMap, TypeError);
  const small = await client.segment(columns("blue"), { maskSize: "model" });
  assert.deepEqual([...small.classMap], Array(64).fill(2));
});

test("models say what they do and how they run", served, async () => {
  const models = await client.listModels({ task: "segment" });
  assert.deepEqual(
    models.map(({ name, task }) => [name, task]),
    [["colour-segmenter", "segment"]],
  );
  const detector = await client.getModel("colour-detector", { version: 1 });
  assert.deepEqual(detector.labels, Object.keys(COLOURS));
  assert.deepEqual([detector.maxDetections, detector.defaultScoreThreshold], [3, 0.5]);
  assert.deepEqual(
    [detector.provider, detector.precision, detector.colour],
    ["CPUExecutionProvider", "fp32", "rgb"],
  );
  assert.ok(detector.maxBatchSize >= 1 && detector.memoryBytes >= 0);
  assert.deepEqual((await client.getModel("colour-regions")).keypointNames, ["middle"]);
});

for (const [name, options, says] of [
  ["ModelNotFoundError", { model: "nope" }, /colour-classifier/],
  ["ModelNotFoundError", { ...CLASSIFIER, version: 99 }, /99/],
  ["ModelNotFoundError", { ...CLASSIFIER, version: "canary" }, /canary/],
  ["WrongTaskError", { model: "colour-detector" }, /detect/],
  ["InvalidRequestError", { ...CLASSIFIER, topK: 0 }, /top_k/],
  ["InvalidRequestError", { ...CLASSIFIER, minScore: Number.NaN }, /min_score/],
] as const) {
  test(`${JSON.stringify(options)} is refused with the server's advice`, served, async () => {
    await assert.rejects(
      client.classify(columns("red"), options),
      (error) => error instanceof RetinueError && error.name === name && says.test(error.message),
    );
  });
}

test("a call that is cancelled ends, and others are answered", served, async () => {
  const signal = AbortSignal.timeout(0);
  await assert.rejects(client.classify(Array(64).fill(columns("red")), { ...CLASSIFIER, signal }), {
    name: "TimeoutError",
  });
  assert.equal((await client.classify(columns("red"), CLASSIFIER)).best?.label, "red");
});

test("the HTTP port, and a port with nobody behind it, are recognised as such", served, async () => {
  for (const [address, says] of [
    [RETINUE_TEST_HTTP, /HTTP port\? The gRPC port is 8001/],
    ["127.0.0.1:1", /connection refused.*--grpc-port 1/],
    ["nowhere.invalid:1", /unknown host name/],
  ] as const) {
    using stranger = new Client(address, { retries: { maxAttempts: 1 } });
    await assert.rejects(stranger.listModels(), { name: "ServerUnreachableError", message: says });
  }
});

const credentials = { ca: file("ca.pem"), certificate: file("caller.pem"), key: file("caller.key") };
const RED = columns("red");

test("a client that has everything is answered by a server that wants everything", served, async () => {
  using caller = new Client(RETINUE_TEST_SECURED, { tls: credentials, token: "a-token-that-infers" });
  assert.equal((await caller.classify(RED, CLASSIFIER)).best?.label, "red");
  assert.ok((await caller.classify([RED], CLASSIFIER))[0] instanceof Classification);
});

test("so is one that takes it from the environment", served, async () => {
  Object.assign(process.env, {
    RETINUE_SERVER: RETINUE_TEST_SECURED,
    RETINUE_TOKEN: "a-token-that-infers",
    RETINUE_TLS_CA: credentials.ca,
    RETINUE_CLIENT_CERTIFICATE: credentials.certificate,
    RETINUE_CLIENT_KEY: credentials.key,
  });
  using caller = new Client();
  for (const name of Object.keys(process.env)) if (/^RETINUE_(?!TEST)/.test(name)) delete process.env[name];
  assert.equal((await caller.classify(RED, CLASSIFIER)).best?.label, "red");
});

for (const [token, reason] of [
  ["", "UNAUTHENTICATED"],
  ["unknown", "UNAUTHENTICATED"],
  ["a-token-that-observes", "SCOPE_MISSING"],
] as const) {
  test(`the token "${token}" does not do`, served, async () => {
    using caller = new Client(RETINUE_TEST_SECURED, { tls: credentials, token });
    await assert.rejects(caller.classify(RED, CLASSIFIER), { name: "AuthenticationError", reason });
  });
}

test("a limit says when to come back, and who would wait too long is told so", served, async () => {
  using caller = new Client(RETINUE_TEST_SECURED, { tls: credentials, token: "a-token-of-the-slow" });
  await caller.listModels();
  await assert.rejects(
    caller.listModels(),
    (error) =>
      error instanceof RetinueError && error.name === "OverloadedError" && (error.retryAfterSeconds ?? 0) > 5,
  );
});

test("who cannot connect is told why", served, async () => {
  for (const [address, tls, says] of [
    [RETINUE_TEST_SECURED, undefined, /It may speak TLS/],
    [RETINUE_TEST_SECURED, { ca: credentials.ca }, /want to see a certificate/],
    [RETINUE_TEST_SECURED, { ca: file("stranger.pem") }, /a certificate that this client does not trust/],
    [RETINUE_TEST_SERVER, credentials, /does not speak TLS/],
  ] as const) {
    using caller = new Client(address, { tls, retries: { maxAttempts: 1 } });
    await assert.rejects(caller.listModels(), { name: "ServerUnreachableError", message: says });
  }
});
