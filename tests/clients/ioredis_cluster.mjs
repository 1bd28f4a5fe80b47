// ioredis' Cluster with its defaults, at the cluster ports given: `ioredis_cluster.mjs FOLDER moves|kills PORT...`, the
// package being in the folder. What it does is what redis_py_cluster.py does.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [folder, mode, ...ports] = process.argv.slice(2);
const require = createRequire(path.join(folder, "package.json"));
const { Cluster } = require("ioredis");
const { version } = require("ioredis/package.json");

const KEYS = 25;
const PIPELINE_LENGTH = 20;
const SAID_EVERY = 50;

let stopped = false;
let acks = 0;

function acknowledged(count) {
  const before = acks;
  acks += count;
  if (Math.floor(before / SAID_EVERY) !== Math.floor(acks / SAID_EVERY)) console.log(`acks ${acks}`);
}

async function appends(client, writer) {
  const held = new Map();
  let number = 0;
  const next = (key) => {
    const token = `${number};`;
    number += 1;
    held.set(key, (held.get(key) ?? "") + token);
    return [token, held.get(key).length];
  };
  while (!stopped) {
    const key = `moved:${writer}:${number % KEYS}`;
    const [token, length] = next(key);
    assert.equal(await client.append(key, token), length, `APPEND ${key}`);
    // Its pipelines are for one slot each.
    const pipeline = client.pipeline();
    const lengths = [];
    for (let i = 0; i < PIPELINE_LENGTH; i += 1) {
      const [token, length] = next(key);
      pipeline.append(key, token);
      lengths.push([null, length]);
    }
    assert.deepEqual(await pipeline.exec(), lengths, "a pipeline of APPEND");
    const [named, heldThen] = next(key);
    for (let i = 0; i < 2; i += 1) {
      const words = ["IDMP", writer, number, "APPEND", key, named];
      assert.equal(await client.call(...words), heldThen, `APPEND ${key} with a token`);
    }
    acknowledged(PIPELINE_LENGTH + 2);
  }
  for (const [key, value] of held) assert.equal(await client.get(key), value, `GET ${key}`);
}

async function values(client, writer) {
  const held = new Map();
  for (let number = 0; !stopped; number += 1) {
    const key = `kept:${writer}:${number % KEYS}`;
    assert.equal(await client.set(key, number), "OK", `SET ${key}`);
    assert.equal(await client.get(key), String(number), `GET ${key}`);
    held.set(key, number);
    acknowledged(1);
  }
  for (const [key, number] of held) assert.equal(await client.get(key), String(number), `GET ${key}`);
}

async function run(writer) {
  const client = new Cluster(ports.map((port) => ({ host: "127.0.0.1", port: Number(port) })));
  await { moves: appends, kills: values }[mode](client, writer);
  client.disconnect();
}

process.stdin.on("end", () => { stopped = true; }).resume();
await Promise.all(["a", "b", "c", "d"].map(run));
console.log(`ioredis ${version}, ${mode}: passed`);
