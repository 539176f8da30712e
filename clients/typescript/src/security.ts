/** How a connection is encrypted, and what says who calls. */

import { readFileSync } from "node:fs";

import { type ChannelCredentials, credentials } from "@grpc/grpc-js";

import { isLocal } from "./address.js";

const TOKEN_VARIABLE = "RETINUE_TOKEN";
const CA_VARIABLE = "RETINUE_TLS_CA";
// Names without TLS, since RETINUE_TLS_CERTIFICATE and RETINUE_TLS_KEY are the server's.
const CERTIFICATE_VARIABLE = "RETINUE_CLIENT_CERTIFICATE";
const KEY_VARIABLE = "RETINUE_CLIENT_KEY";
// As an authority: those that Node brings.
const PUBLIC = "public";

/** TLS to a server: which certificates it may show, and which is shown to it. */
export interface Tls {
  /**
   * PEM file of the authorities that may have signed the server's certificate. Left out means the public ones, as Node
   * brings them.
   */
  readonly ca?: string | URL | undefined;
  /** PEM file of the client's own certificate, for a server that wants one. */
  readonly certificate?: string | URL | undefined;
  /** PEM file of its private key. */
  readonly key?: string | URL | undefined;
}

/** What `Tls` and a token come to. */
export interface Security {
  readonly credentials: ChannelCredentials;
  /** What says who calls; empty for nothing. */
  readonly token: string;
}

/**
 * Reads what is given, or what the environment names instead.
 *
 * @param targets As `resolveAddresses` gives them.
 * @param tls Left out means what RETINUE_TLS_CA and the other variables say.
 * @param token Left out means what RETINUE_TOKEN says.
 * @throws TypeError A file cannot be read or holds nothing that fits, a certificate has no key, the token is none, or
 *     others could read it on its way.
 */
export function resolveSecurity(targets: readonly string[], tls?: Tls, token?: string): Security {
  const given = tls ?? tlsOfEnvironment();
  const secret = token ?? process.env[TOKEN_VARIABLE] ?? "";
  if (!/^[!-~]*$/.test(secret)) {
    throw new TypeError("The token has characters that none has: it is printable ASCII without spaces.");
  }
  if (secret !== "" && given === undefined && !targets.every(isLocal)) {
    throw new TypeError(
      `The token is not sent to ${targets.join()} without TLS, since others could read it on its way: name the authority of ` +
        `the server's certificate, with tls or ${CA_VARIABLE}.`,
    );
  }
  return {
    credentials: given === undefined ? credentials.createInsecure() : encrypted(given),
    token: secret,
  };
}

function encrypted(tls: Tls): ChannelCredentials {
  if ((tls.certificate === undefined) !== (tls.key === undefined)) {
    throw new TypeError("A client's certificate and its private key need each other; name both.");
  }
  const [ca, key, certificate] = [tls.ca, tls.key, tls.certificate].map(content);
  try {
    return credentials.createSsl(ca, key, certificate);
  } catch (error) {
    throw new TypeError("The certificates and the key cannot be used together.", { cause: error });
  }
}

function tlsOfEnvironment(): Tls | undefined {
  const [ca, certificate, key] = [CA_VARIABLE, CERTIFICATE_VARIABLE, KEY_VARIABLE].map(
    (name) => process.env[name] || undefined,
  );
  if (ca === undefined && certificate === undefined && key === undefined) return undefined;
  return { ca: ca === PUBLIC ? undefined : ca, certificate, key };
}

function content(path: string | URL | undefined): Buffer | null {
  if (path === undefined) return null;
  let read: Buffer;
  try {
    read = readFileSync(path);
  } catch (error) {
    throw new TypeError(`"${path}" cannot be read: ${(error as Error).message}.`, { cause: error });
  }
  if (!read.includes("-----BEGIN ")) throw new TypeError(`"${path}" is no PEM file.`);
  return read;
}
