// Appends words over two routers and finds each of them once, whatever happens to the routers meanwhile.
//
// `exactly_once.mjs HOST:PORT HOST:PORT WORDS`, with ioredis. `make exactly-once CLIENT=ioredis` kills the routers.

import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";
import { Redis, ReplyError } from "ioredis";

const [first, second, count] = process.argv.slice(2);
const LOGS = Array.from({ length: 10 }, (_, i) => `log:${i}`);

function connect(address) {
  const [host, port] = address.split(":");
  // It fails at once what a broken connection leaves unanswered: there is another router.
  const router = new Redis({ host, port, maxRetriesPerRequest: 0, commandTimeout: 10_000 });
  return router.on("error", () => {}); // commands fail with it, and are sent again
}

const routers = [connect(first), connect(second)];
const producer = randomUUID();
let id = 0;
let sentAgain = 0;

// Sends a command until its own answer comes: a value, or an error of the command.
async function answer(...command) {
  const giveUp = performance.now() + 9 * 60_000; // a write is remembered for ten minutes
  for (;; sentAgain += 1, await setTimeout(50)) {
    try {
      return await routers[0].call(...command);
    } catch (error) {
      if (!isOpen(error) || performance.now() > giveUp) throw error;
    }
    routers.reverse();
  }
}

// Whether the command may have been done, or may be done if it is sent again.
function isOpen(error) {
  const open = /^(TIMEOUT|CLUSTERDOWN|TRYAGAIN|OOM|MISCONF) |max number of clients reached/;
  return !(error instanceof ReplyError) || open.test(error.message);
}

const words = Array.from({ length: Number(count) }, (_, i) => `${producer}-${i};`);
for (const [i, word] of words.entries()) {
  await answer("IDMP", producer, ++id, "APPEND", LOGS[i % LOGS.length], word);
}

const held = (await answer("MGET", ...LOGS)).join("");
const wrong = words.filter((word) => held.split(word).length !== 2).length;
console.log(`${words.length} words, ${wrong} of them lost or doubled; sent again: ${sentAgain}`);
process.exit(wrong > 0 ? 1 : 0);
