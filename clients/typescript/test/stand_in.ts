/** A server that answers as a test says. */

import { create, type DescMethodUnary, fromBinary, type MessageShape, toBinary } from "@bufbuild/protobuf";
import { anyPack } from "@bufbuild/protobuf/wkt";
import {
  type handleUnaryCall,
  Metadata,
  Server,
  ServerCredentials,
  type ServerUnaryCall,
  type ServiceDefinition,
  type StatusObject,
  type sendUnaryData,
  status,
} from "@grpc/grpc-js";

import { ErrorInfoSchema, RetryInfoSchema } from "../src/gen/google/rpc/error_details_pb.js";
import { StatusSchema } from "../src/gen/google/rpc/status_pb.js";
import {
  type ClassifyRequestSchema,
  ClassifyResponseSchema,
  VisionService,
} from "../src/gen/retinue/v1/vision_service_pb.js";
import { Client, type ClientOptions, type StatusCode } from "../src/index.js";

export type ClassifyRequest = MessageShape<typeof ClassifyRequestSchema>;
type Call = ServerUnaryCall<ClassifyRequest, unknown>;

/** A refusal as Retinue's servers give it. */
export function refusal(code: StatusCode, reason: string, retryAfterSeconds?: number) {
  const details = [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { reason, domain: "retinue" }))];
  if (retryAfterSeconds !== undefined) {
    const nanos = Math.round(retryAfterSeconds * 1e9);
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: { seconds: 0n, nanos } })));
  }
  const packed = toBinary(
    StatusSchema,
    create(StatusSchema, { code: status[code], message: reason, details }),
  );
  const metadata = new Metadata();
  metadata.set("grpc-status-details-bin", Buffer.from(packed));
  return Object.assign(new Error(reason), { code: status[code], details: reason, metadata });
}

/** One outcome for each image of a request, its label what the image's bytes say. */
export function answer(request: ClassifyRequest) {
  const outcomes = request.images.map(({ source }) => {
    const label = Buffer.from(source.value as Uint8Array).toString();
    return { outcome: { case: "result" as const, value: { classes: [{ classId: 0, label, score: 1 }] } } };
  });
  return create(ClassifyResponseSchema, { outcomes, model: "stand-in", version: 1 });
}

/** Runs code with a client of a server that answers Classify so. */
export async function withStandIn(
  classify: (request: ClassifyRequest, call: Call) => unknown,
  use: (client: Client) => Promise<void>,
  options: ClientOptions = {},
): Promise<void> {
  const server = new Server();
  const method: DescMethodUnary = VisionService.method.classify;
  const definition: ServiceDefinition = {
    classify: {
      path: `/${method.parent.typeName}/${method.name}`,
      requestStream: false,
      responseStream: false,
      requestSerialize: Buffer.from,
      requestDeserialize: (packed: Buffer) => fromBinary(method.input, packed),
      responseSerialize: (message) => Buffer.from(toBinary(method.output, message)),
      responseDeserialize: (packed: Buffer) => packed,
    },
  };
  server.addService(definition, {
    classify: (async (call: Call, respond: sendUnaryData<unknown>) => {
      try {
        respond(null, await classify(call.request, call));
      } catch (error) {
        respond(error as Partial<StatusObject>);
      }
    }) as handleUnaryCall<ClassifyRequest, unknown>,
  });
  const port = await new Promise<number>((resolve, reject) => {
    server.bindAsync("127.0.0.1:0", ServerCredentials.createInsecure(), (error, bound) =>
      error ? reject(error) : resolve(bound),
    );
  });
  const client = new Client(`127.0.0.1:${port}`, options);
  try {
    await use(client);
  } finally {
    client.close();
    server.forceShutdown();
  }
}
