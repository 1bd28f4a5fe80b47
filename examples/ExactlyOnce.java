// Appends words over two routers and finds each of them once, whatever happens to the routers meanwhile.
//
// `java -cp JARS ExactlyOnce.java HOST:PORT HOST:PORT WORDS`, with Jedis and what it needs in JARS.
// `make exactly-once CLIENT=jedis CLASSPATH=JARS` kills the routers.

import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.UUID;
import redis.clients.jedis.HostAndPort;
import redis.clients.jedis.JedisPooled;
import redis.clients.jedis.Protocol;
import redis.clients.jedis.commands.ProtocolCommand;
import redis.clients.jedis.exceptions.JedisConnectionException;
import redis.clients.jedis.exceptions.JedisException;
import redis.clients.jedis.util.SafeEncoder;

class ExactlyOnce {
  static final ProtocolCommand IDMP = () -> SafeEncoder.encode("IDMP");
  static final List<JedisPooled> routers = new ArrayList<>();
  static int sentAgain = 0;

  // Sends a command until its own answer comes: a value, or an error of the command.
  static Object answer(ProtocolCommand command, String... words) throws InterruptedException {
    long giveUp = System.nanoTime() + 540_000_000_000L; // a write is remembered for ten minutes
    for (;; sentAgain += 1, Thread.sleep(50)) {
      try {
        return routers.get(0).sendCommand(command, words);
      } catch (JedisException error) {
        if (!isOpen(error) || System.nanoTime() > giveUp) throw error;
      }
      Collections.rotate(routers, 1);
    }
  }

  // Whether the command may have been done, or may be done if it is sent again.
  static boolean isOpen(JedisException error) {
    String open = "(TIMEOUT|CLUSTERDOWN|TRYAGAIN|OOM|MISCONF) .*|.*max number of clients reached";
    return error instanceof JedisConnectionException || String.valueOf(error.getMessage()).matches(open);
  }

  public static void main(String[] arguments) throws InterruptedException {
    routers.add(new JedisPooled(HostAndPort.from(arguments[0])));
    routers.add(new JedisPooled(HostAndPort.from(arguments[1])));
    String producer = UUID.randomUUID().toString();
    int count = Integer.parseInt(arguments[2]);
    for (int i = 0; i < count; i++) {
      answer(IDMP, producer, String.valueOf(i), "APPEND", "log:" + i % 10, producer + "-" + i + ";");
    }

    StringBuilder held = new StringBuilder();
    for (int log = 0; log < 10; log++) {
      held.append(new String((byte[]) answer(Protocol.Command.GET, "log:" + log)));
    }
    int wrong = 0;
    for (int i = 0; i < count; i++) {
      wrong += held.toString().split(producer + "-" + i + ";", -1).length == 2 ? 0 : 1;
    }
    System.out.printf("%d words, %d of them lost or doubled; sent again: %d%n", count, wrong, sentAgain);
    System.exit(wrong > 0 ? 1 : 0);
  }
}
