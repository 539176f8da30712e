/** The request that was made as code, ready to copy. Pure. */

/**
 * One request.
 *
 * @typedef {Object} Asked
 * @property {string} task "classify", "detect" or "segment".
 * @property {string} model Its name.
 * @property {string} version A number, a label, or empty for the one that is served.
 * @property {Object} options By the names of the request's fields; `classify_with` is a classifier's name.
 * @property {string} file The image's name.
 * @property {string} origin Of the page, such as "http://localhost:8080".
 * @property {Object} facts What the server says of itself.
 */

/** Names of languages, each with what writes them of an `Asked`. */
export const LANGUAGES = { Python: python, TypeScript: typescript, curl, grpcurl };

const MOST_CHARACTERS = 60;
const METHODS = { classify: "Classify", detect: "Detect", segment: "Segment" };

function python(asked) {
  const options = { model: asked.model, version: numbered(asked.version), ...asked.options };
  const told = Object.entries(options)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${name}=${literal(value)}`);
  const shown = asked.facts.client_certificates ? 'certificate="client.pem", key="client.key"' : "";
  const client = [quoted(grpcAddress(asked)), ...(asked.facts.encrypted ? [`tls=Tls(${shown})`] : [])];
  const names = asked.facts.encrypted ? "Client, Tls" : "Client";
  return [
    `from retinue_client import ${names}`,
    "",
    ...(asked.facts.tokens ? ["# The token comes from the environment: RETINUE_TOKEN."] : []),
    `with Client(${client.join(", ")}) as client:`,
    ...wrapped(`    result = client.${asked.task}(`, [quoted(asked.file), ...told], ")", "    "),
    "    print(result)",
  ].join("\n");
}

function literal(value) {
  if (typeof value === "boolean") return value ? "True" : "False";
  return typeof value === "number" ? String(value) : quoted(value);
}

function typescript(asked) {
  const options = { model: asked.model, version: numbered(asked.version), ...asked.options };
  const told = Object.entries(options)
    .filter(([, value]) => value !== undefined)
    .map(([name, value]) => `${camel(name)}: ${typeof value === "string" ? quoted(value) : value}`);
  const shown = asked.facts.client_certificates ? ' certificate: "client.pem", key: "client.key" ' : "";
  return [
    'import { Client } from "retinue-client";',
    "",
    ...(asked.facts.tokens ? ["// The token comes from the environment: RETINUE_TOKEN."] : []),
    `const client = new Client(${quoted(grpcAddress(asked))}${asked.facts.encrypted ? `, { tls: {${shown}} }` : ""});`,
    ...wrapped(`const result = await client.${asked.task}(${quoted(asked.file)}, { `, told, " });", ""),
    "console.log(result);",
    "client.close();",
  ].join("\n");
}

function curl(asked) {
  const lines = ["curl"];
  if (asked.facts.tokens) lines.push('-H "Authorization: Bearer $RETINUE_TOKEN"');
  if (asked.facts.client_certificates) lines.push("--cert client.pem --key client.key");
  lines.push(`--data-binary ${shell(`@${asked.file}`)}`);
  lines.push(shell(asked.origin + pathOf(asked)));
  return lines.join(" \\\n  ");
}

function grpcurl(asked) {
  const { classify_with: classifier, ...options } = asked.options;
  const version = numbered(asked.version);
  const request = {
    model: asked.model,
    ...(typeof version === "number" ? { version } : {}),
    ...(typeof version === "string" ? { version_label: version } : {}),
    ...options,
    ...(classifier ? { classify_with: { model: classifier } } : {}),
  };
  const fields = shell(`${JSON.stringify(request).slice(0, -1)},"images":[{"encoded":"`);
  const lines = [
    `{ printf %s ${fields}; base64 -w0 ${shell(argument(asked.file))}; echo '"}]}'; } |`,
    `grpcurl ${asked.facts.encrypted ? "" : "-plaintext "}-d @`,
  ];
  if (asked.facts.client_certificates) lines.push("-cert client.pem -key client.key");
  if (asked.facts.tokens) lines.push('-H "authorization: Bearer $RETINUE_TOKEN"');
  lines.push(`${grpcAddress(asked)} retinue.v1.VisionService/${METHODS[asked.task]}`);
  return lines.join(" \\\n  ").replace("| \\\n", "|\n");
}

/** A call in one line, or with its arguments in lines of their own where that is long. */
function wrapped(begin, told, end, indent) {
  const line = begin + told.join(", ") + end;
  if (line.length <= MOST_CHARACTERS) return [line];
  return [begin.trimEnd(), ...told.map((one) => `${indent}    ${one},`), indent + end.trimStart()];
}

/** The path of a request over HTTP, with its options as the query. */
export function pathOf({ task, model, version, options }) {
  const named = version ? `/versions/${encodeURIComponent(version)}` : "";
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(options)) {
    query.append(name === "classify_with" ? "classify_with.model" : name, value);
  }
  const text = query.toString();
  return `/v1/models/${encodeURIComponent(model)}${named}:${task}${text && "?"}${text}`;
}

function grpcAddress({ origin, facts }) {
  return `${new URL(origin).hostname}:${facts.grpc_port}`;
}

function numbered(version) {
  if (!version) return undefined;
  return /^\d+$/.test(version) ? Number(version) : version;
}

/** A text as Python, JavaScript and JSON write it alike. */
function quoted(text) {
  return JSON.stringify(text);
}

/** A text as a word of the shell. */
function shell(text) {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

/** The name of a file that is none of an option. */
function argument(file) {
  return file.startsWith("-") ? `./${file}` : file;
}

function camel(name) {
  return name.replace(/_(\w)/g, (_, letter) => letter.toUpperCase());
}
