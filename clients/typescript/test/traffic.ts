/**
 * Asks the servers at the address that is the first argument, several calls at once, until standard input ends; then prints
 * how often which answer came, as JSON.
 */

import { Client, RetinueError } from "../src/index.js";

const CALLERS = 3;
const BLUE = { data: Uint8Array.of(0, 0, 255), width: 1, height: 1 };

const client = new Client(process.argv[2]);
const outcomes: Record<string, number> = {};
let isOver = false;
process.stdin
  .on("data", () => undefined)
  .on("end", () => {
    isOver = true;
  });

async function call(): Promise<string> {
  try {
    return (await client.classify(BLUE, { model: "colour-classifier" })).best?.label ?? "nothing";
  } catch (error) {
    if (!(error instanceof RetinueError)) throw error;
    return `${error.reason}: ${error.message}`;
  }
}

async function callUntilOver(): Promise<void> {
  while (!isOver) {
    const outcome = await call();
    outcomes[outcome] = (outcomes[outcome] ?? 0) + 1;
  }
}

await Promise.all(Array.from({ length: CALLERS }, callUntilOver));
client.close();
console.log(JSON.stringify(outcomes));
