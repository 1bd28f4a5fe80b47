// ioredis with its defaults (RESP3 by HELLO) and in RESP2, against the cluster on the given port.
// The package is in the folder given as the second argument. Any wrong reply ends it with code 1.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [port, folder] = [Number(process.argv[2]), process.argv[3]];
const require = createRequire(path.join(folder, "package.json"));
const { Redis } = require("ioredis");
const { version } = require("ioredis/package.json");

const ALL_BYTES = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
const FIVE_MB = Buffer.alloc(5_000_000, ALL_BYTES);
const PIPELINE_LENGTH = 10_000;

async function check(name, options) {
  const client = new Redis({ port, host: "127.0.0.1", maxRetriesPerRequest: 0, ...options });
  client.on("error", (error) => { throw error; });
  assert.equal(await client.ping(), "PONG");
  for (const [kind, value] of [["bytes", ALL_BYTES], ["empty", Buffer.alloc(0)], ["big", FIVE_MB]]) {
    const key = Buffer.concat([Buffer.from(`node:${name}:${kind}`), ALL_BYTES]);
    assert.equal(await client.get(key), null);
    assert.equal(await client.set(key, value), "OK");
    assert.ok(value.equals(await client.getBuffer(key)), `GET ${kind}`);
    assert.equal(await client.append(key, ALL_BYTES), value.length + 256);
    assert.ok(Buffer.concat([value, ALL_BYTES]).equals(await client.getBuffer(key)), `APPEND ${kind}`);
    assert.equal(await client.del(key), 1);
  }

  const writes = client.pipeline();
  for (let i = 0; i < PIPELINE_LENGTH; i += 1) writes.append(`node:${name}:${i}`, "x".repeat(i % 5));
  (await writes.exec()).forEach(([error, length], i) => assert.deepEqual([error, length], [null, i % 5]));
  const reads = client.pipeline();
  for (let i = 0; i < PIPELINE_LENGTH; i += 1) reads.set(`node:${name}:${i}`, i).get(`node:${name}:${i}`);
  (await reads.exec()).forEach(([error, reply], i) =>
    assert.deepEqual([error, reply], [null, i % 2 ? String((i - 1) / 2) : "OK"]));
  for (let i = 0; i < 3; i += 1) {
    assert.equal(await client.call("IDMP", `node ${name}`, 1, "APPEND", `node:${name}:once`, "line;"), 5);
  }
  await client.quit();
  console.log(`ioredis ${version}, ${name}: passed`);
}

await check("defaults", {});
await check("resp2", { protocol: 2 });
