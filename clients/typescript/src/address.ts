/** Where the server is. */

export const DEFAULT_ADDRESS = "localhost:8001";
const DEFAULT_PORT = "8001";
const ADDRESS_VARIABLE = "RETINUE_SERVER";

// Those of gRPC's own schemes that its library for Node knows, handed on as they are.
// Source: https://github.com/grpc/grpc/blob/master/doc/naming.md
const GRPC_SCHEMES = ["unix:", "dns:", "ipv4:", "ipv6:"];
const SCHEMES_OF_HOSTS = ["dns", "ipv4", "ipv6"];

/**
 * The gRPC targets to connect to, one for each server that is given.
 *
 * @param address "HOST:PORT", "HOST" for port 8001, "[IPv6]:PORT" or a gRPC target such as "unix:/run/a.sock"; several,
 *     separated by commas. Left out means what the environment variable RETINUE_SERVER says, or localhost:8001.
 * @throws TypeError It is no address; the message says what one looks like.
 */
export function resolveAddresses(address?: string): string[] {
  const given = address ?? (process.env[ADDRESS_VARIABLE] || DEFAULT_ADDRESS);
  // These schemes have lists of their own.
  const each = /^\s*ipv[46]:/.test(given) ? [given] : given.split(",");
  return [...new Set(each.map((one) => resolved(one.trim())))];
}

/** Whether what is sent to a target stays on this machine. */
export function isLocal(target: string): boolean {
  return target.startsWith("unix:") || isLoopback(target);
}

/** Whether a target is this machine's own network. */
export function isLoopback(target: string): boolean {
  const scheme = target.slice(0, Math.max(target.indexOf(":"), 0));
  // Such as dns://AUTHORITY/HOST:PORT, where only the host matters.
  const rest = target.slice(scheme.length + 1);
  const address = SCHEMES_OF_HOSTS.includes(scheme) ? rest.slice(rest.lastIndexOf("/") + 1) : target;
  const host = splitPort(address)[0].replace(/^\[(.*)\]$/, "$1");
  return host === "localhost" || host === "::1" || /^127(\.[0-9]{1,3}){3}$/.test(host);
}

function resolved(given: string): string {
  if (GRPC_SCHEMES.some((scheme) => given.startsWith(scheme))) return given;
  if (given.includes("/")) {
    throw new TypeError(
      `"${given}" is no gRPC address: it is written HOST:PORT, such as ${DEFAULT_ADDRESS}, without a scheme and ` +
        "without a path.",
    );
  }
  const [host, port] = splitPort(given);
  if (host === "" || !/^[0-9]{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65535) {
    throw new TypeError(`"${given}" is no address: it is written HOST:PORT, such as ${DEFAULT_ADDRESS}.`);
  }
  if (host.includes(":") && !host.startsWith("[")) {
    throw new TypeError(
      `"${given}" is ambiguous: write an IPv6 address in brackets, such as [::1]:${DEFAULT_PORT}.`,
    );
  }
  return `${host}:${port}`;
}

function splitPort(address: string): [host: string, port: string] {
  const colon = address.lastIndexOf(":");
  if (colon < 0 || address.endsWith("]")) return [address, DEFAULT_PORT];
  return [address.slice(0, colon), address.slice(colon + 1)];
}
