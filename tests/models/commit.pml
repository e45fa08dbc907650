/* Versions, commits, checkpoints, groups and serials on one chain of the index.

   Writers run scripts of operations as operation.h does: the hit first, then Attempt. A coordinator
   commits as committer.cc does; another one may make a checkpoint; a turner moves read_only as a
   page turn does. Recovery is LogReplay's, serials are session_table.h's, in the control record
   itself. Checkpoints and groups of a batch follow the library's design. Every
   access to a shared word is a step of its own unless a comment says why not; steps are
   sequentially consistent.

   Checked:
   1. There is an order of all operations that respects real time and versions, and explains every
      result, the final state, and the state of a recovery that ends with any control record.
   2. No byte below safe_read_only changes.
   3. A commit makes every operation durable that had returned before the commit began.
   4. Serials in a control record state exactly which operations of a session are in it.
   5. An image and the log from its tail give the same as the whole log.
   6. No process waits forever.

   A line of `run` sets these variables of the environment:
     SCRIPT      a word for each writer, a letter for each operation: u Upsert, m Rmw, d Delete,
                 r Read, x any of u m d; capitals: of the second key; +: in a group with the one
                 before
     COMMITS     calls of Commit, in a row
     FAILURES    how many appends of a control record, or flushes, may fail
     TURNS       1: a page turn during all this
     CHECKPOINT  1: a checkpoint during all this
     LEFT_OUT    the number of the rule that is left out */

/* The rules that a twin can leave out. */
#define R_SECOND_LOOK         1  /* the hit looks before it acts */
#define R_LOOK_AGAIN          2  /* a lost publication takes the look again */
#define R_LOOK_COLD           3  /* Attempt looks before it acts */
#define R_COMPARE_VERSIONS    4  /* only records of the own version are mutable */
#define R_WAIT_UNTIL_FROZEN   5  /* a dependent operation waits until a record is frozen */
#define R_DRAIN_VERSION       6  /* the control record is reserved after the drain */
#define R_INFINITY            7  /* update_from is infinite from before a bump of the version */
#define R_RAISE_FLOOR         8  /* it is lifted to the end of the control record */
#define R_KEEP_FLOOR          9  /* but not below the value set by a page turn */
#define R_TURN_BEFORE_BUMP   10  /* a page turn raises update_from before its bump */
#define R_DRAIN_READ_ONLY    11  /* safe_read_only moves after a drain */
#define R_TWO_VERSION_BITS   12  /* records carry two bits of their version, not one */
#define R_DROP_STRAGGLERS    13  /* recovery drops records of v+1 below control record v */
#define R_SETTLED            14  /* a commit is skipped only if nothing acted during the last */
#define R_OWED_FIRST         15  /* an owed control record comes before the next bump */
#define R_FRESH_PLACE        16  /* a place is used again only above the chain's head */
#define R_DRAIN_IMAGE        17  /* the image is copied after a drain */
#define R_IMAGE_BEFORE_BUMP  18  /* and before the bump of the checkpoint's commit */
#define R_MANIFEST_LAST      19  /* the manifest is written when that commit is durable */
#define R_LOOK_PER_ITEM      20  /* each item of a group takes its own look */
#define R_SERIAL_IN_GUARD    21  /* a serial is stored under the guard of its effect */
#define R_TWO_SERIALS        22  /* one serial for each parity of versions */
#define R_SERIAL_MAXIMUM     23  /* a control record never lowers a serial */
#define R_SERIAL_PER_ITEM    24  /* a group's serial covers the work under its guard */
#define R_SKIP_MINDS_SERIALS 25  /* a commit is not skipped when a serial has moved */
#define R_GROUP_IN_ORDER     26  /* an item that has to wait holds up those behind it */

#define N 14                    /* places in the log; 0 is none */
#define WRITERS 2
#define OPS 3                   /* of one writer, at most */
#define NOPS 6
#define KEYS 2
#define FIRST 2                 /* the version at the start; its bits wrap around soon */
#define INFINITE 128
#define ABSENT 128

#define UPSERT 0
#define RMW 1
#define DELETE 2
#define READ 3
#define ANY 4

typedef Record {
  byte bits; byte prev; byte value; bit key; bit tombstone; bit valid;
  byte control                  /* the version of a control record, else 0 */
};
Record log[N];
byte entry;                     /* of the chain in the index */
byte tail = 1, read_only = 1, safe_read_only = 1, update_from = 1, version_floor = 1;
byte state = 4 + FIRST;         /* epoch * 4 + version bits */
byte slot[WRITERS];
byte drained = FIRST;           /* full versions, compared by their bits */

/* The coordinator's. */
byte version = FIRST, shift_tail, durable = 1;
bit owes, settled = 1, committing, staged;
byte failures, commits, left_out;
byte committed;                 /* the version of the last durable control record */
bit manifest; byte image, image_tail, manifest_end;
/* The last serials of the sessions: by parity of the version; as far as the coordinator has looked;
   as far as they are durable; and in each control record. */
typedef Serials { byte last[2] };
Serials serial[WRITERS];
byte seen_serial[WRITERS];
byte durable_serial[WRITERS];
typedef Durable { byte session[WRITERS] };
Durable control_serial[N];

/* The data for the check. A value is the set of the operations that it is made of. At the
   start the first key has a record with the value START, and the second key is absent. */
#define START 64
byte kind[NOPS], answer[NOPS], in_version[NOPS], before[NOPS]; bit key[NOPS], grouped[NOPS];
byte count[WRITERS];
byte done;                      /* operations that have returned */
byte running;                   /* processes */
typedef Found { byte value[KEYS] };
Found found[N];                 /* by a recovery, when the control record had become durable */

c_decl {
  void (*uerror)(char*);
  static int turns, checkpoint;
};
c_code {
  static int number(const char* name) { const char* s = getenv(name); return s ? atoi(s) : 0; }

  static int effective(int o) {
    return now.kind[o] == UPSERT || now.kind[o] == RMW ||
           (now.kind[o] == DELETE && now.answer[o] != ABSENT);
  }
  static int value_of(int head, int k) {
    while (head && now.log[head].key != k) head = now.log[head].prev;
    return head == 0 || now.log[head].tombstone ? ABSENT : now.log[head].value;
  }
  /* What a recovery finds in a log that ends before `end`, scanned from `from` on, on top of an
     index whose entry is `head`. The first pass finds out what is void. */
  static void recover(int from, int head, int end, unsigned char* value) {
    const int mask = now.left_out == R_TWO_VERSION_BITS ? 1 : 3;
    int a, k, last = from, last_but_one = from, straggler_bits = -1;
    for (a = from; a < end; a++)
      if (now.log[a].control) {
        last_but_one = last;
        last = a + 1;
        straggler_bits = (now.log[a].control + 1) & mask;
      }
    if (now.left_out == R_DROP_STRAGGLERS) straggler_bits = -1;
    for (a = from; a < last; a++) {
      if (now.log[a].control || !now.log[a].valid) continue;
      if (a >= last_but_one && now.log[a].bits == straggler_bits) continue;
      head = a;
    }
    for (k = 0; k < KEYS; k++) value[k] = value_of(head, k);
  }
  static int next_control(int a) {
    for (a++; a < now.tail && !now.log[a].control; a++) {}
    return a;
  }
  static void note_durable(int end) {
    int a;
    for (a = 1; a < end; a++)
      if (now.log[a].control && now.found[a].value[0] == 0)
        recover(1, 0, next_control(a), now.found[a].value);
  }
  static void check_commit(int must, int committed) {
    int o;
    for (o = 0; o < NOPS; o++) {
      if (!(must >> o & 1)) continue;
      if (effective(o) && now.in_version[o] > committed)
        uerror("a commit does not cover what had returned before it");
      if (now.durable_serial[o / OPS] <= o % OPS)
        uerror("a commit does not cover a serial from before it");
    }
  }

  /* Have recoveries that end with the control records of versions [from, until) found `state`? */
  static int found_in(int k, int from, int until, int state) {
    int a;
    for (a = 1; a < now.tail; a++)
      if (now.log[a].control && now.log[a].control >= from && now.log[a].control < until &&
          now.found[a].value[k] != state) return 0;
    return 1;
  }
  /* May operation o be the first of those on its key that are not `used`? */
  static int may_be_next(int o, int used) {
    int p;
    for (p = 0; p < NOPS; p++) {
      if (p == o || now.key[p] != now.key[o] || !(now.done >> p & 1) || used >> p & 1) continue;
      if (now.before[o] >> p & 1) return 0;
      if (effective(o) && effective(p) && now.in_version[p] < now.in_version[o]) return 0;
    }
    return 1;
  }
  /* The state that o makes of `state`, or -1 if it would have answered otherwise. */
  static int next_state(int o, int state) {
    const int answer = now.answer[o];
    switch (now.kind[o]) {
      case UPSERT: return 1 << o;
      case RMW: return answer == state ? (state & (ABSENT - 1)) | 1 << o : -1;
      case DELETE: return (answer == ABSENT) == (state == ABSENT) ? ABSENT : -1;
      default: return answer == state ? state : -1;
    }
  }
  /* Is there an order of the operations on key k that begins with the `used` ones, which have led
     to `state` in `version`? */
  static int continues(int k, int used, int state, int version) {
    int o, next, later, any = 0;
    for (o = 0; o < NOPS; o++) {
      if (now.key[o] != k || !(now.done >> o & 1) || used >> o & 1) continue;
      any = 1;
      if (!may_be_next(o, used) || (next = next_state(o, state)) < 0) continue;
      later = effective(o) ? now.in_version[o] : version;
      if (found_in(k, version, later, state) && continues(k, used | 1 << o, next, later)) return 1;
    }
    return !any && found_in(k, version, 255, state) && value_of(now.entry, k) == state;
  }
  static void check(void) {
    unsigned char again[KEYS], other[KEYS];
    int a, k, o;
    for (a = 0; a < now.tail; a++) {
      if (a != 0 && !now.log[a].control) continue;
      recover(1, 0, next_control(a), again);
      if (now.manifest && a + 1 >= now.manifest_end) {
        recover(now.image_tail, now.image, next_control(a), other);
        if (memcmp(again, other, KEYS)) uerror("the image gives another state than the log");
      }
      if (a == 0) continue;
      if (a < now.durable && memcmp(again, now.found[a].value, KEYS))
        uerror("what was durable has changed");
      memcpy(now.found[a].value, again, KEYS);
    }
    for (k = 0; k < KEYS; k++)
      if (!continues(k, 0, k == 0 ? START : ABSENT, 0))
        uerror("no order of the operations explains it");
    for (a = 1; a < now.tail; a++)
      for (o = 0; o < NOPS; o++) {
        const int has_serial = o % OPS < now.control_serial[a].session[o / OPS];
        if (now.log[a].control && now.done >> o & 1 && effective(o) &&
            has_serial != (now.in_version[o] <= now.log[a].control))
          uerror("a serial does not tell what is in a commit");
      }
  }
  static void set_up(void) {
    const char* letters = "umdrx";
    const char* s = getenv("SCRIPT");
    int w = 0, o = 0;
    now.left_out = number("LEFT_OUT");
    now.commits = number("COMMITS");
    turns = number("TURNS");
    checkpoint = number("CHECKPOINT");
    now.failures = number("FAILURES");
    for (; s && *s; s++) {
      if (*s == ' ') { w++; o = 0; continue; }
      if (*s == '+') { now.grouped[w * OPS + o] = 1; continue; }
      now.kind[w * OPS + o] = strchr(letters, *s | 32) - letters;  /* in the order of the kinds */
      now.key[w * OPS + o] = (*s & 32) == 0;
      now.count[w] = ++o;
    }
  }
};
#define OUT(rule) (left_out == rule)

#define BITS(v) ((v) & 3)
/* The full version of an operation that acts now. */
#define FULL(bits) (version - ((version - (bits)) & 3))

/* Writing below safe_read_only is an error at once. */
#define WRITE(a) assert((a) >= safe_read_only)

inline Find(from, k, a) {
  a = from;
  do :: a != 0 && log[a].key != k -> a = log[a].prev :: else -> break od
}

/* ---- boundaries, epochs ---- */

#define FLOOR(word) ((word) & (INFINITE - 1))
inline Raise(floor) {           /* under boundary_mu_ in the code, so one step */
  if :: FLOOR(update_from) < floor -> update_from = (update_from & INFINITE) | floor :: else fi
}
inline Bump(e) { d_step { state = state + 4; e = state >> 2 } }
/* Slots are looked at one after the other. */
#define LEFT(w, e) (slot[w] == 0 || (slot[w] >> 2) >= e)

/* AdvanceBoundaries, AdvanceSafeBoundaries and flush up to `to`: the same whoever helps. */
inline Shift(to, e) {
  if
  :: d_step {
       !staged && read_only < to -> staged = 1;
       if :: OUT(R_TURN_BEFORE_BUMP) :: else -> Raise(to) fi
     };
     read_only = to;
     Bump(e);
     LEFT(0, e) || OUT(R_DRAIN_READ_ONLY);
     d_step {
       LEFT(1, e) || OUT(R_DRAIN_READ_ONLY) ->
       if :: OUT(R_TURN_BEFORE_BUMP) -> Raise(to) :: else fi;
       safe_read_only = read_only; staged = 0; e = 0
     }
  :: read_only >= to
  fi
}

proctype Turner() {
  byte to, e;
  to = tail;
  Shift(to, e);
  d_step { to = 0; running-- }
}

/* ---- commits ---- */

/* After the drain of version v the words of its parity rest, so this is one step. */
inline TakeSerials(v, c) {
  i = 0;
  do
  :: i < WRITERS ->
     if
     :: OUT(R_TWO_SERIALS) -> seen_serial[i] = serial[i].last[0]
     :: OUT(R_SERIAL_MAXIMUM) -> seen_serial[i] = serial[i].last[(v) & 1]
     :: else ->
        if
        :: serial[i].last[(v) & 1] > seen_serial[i] -> seen_serial[i] = serial[i].last[(v) & 1]
        :: else
        fi
     fi;
     control_serial[c].session[i] = seen_serial[i];
     i++
  :: else -> break
  od;
  i = 0
}
#define NEWS(w) (serial[w].last[0] > durable_serial[w] || serial[w].last[1] > durable_serial[w])
#define NEEDLESS ((settled || OUT(R_SETTLED)) && !owes && tail == durable && \
                  (OUT(R_SKIP_MINDS_SERIALS) || OUT(R_SETTLED) || !(NEWS(0) || NEWS(1))))

proctype Coordinator(byte calls; bit is_checkpoint) {
  byte i, e, c, end, must; bit owed;
  if
  :: is_checkpoint ->
     image_tail = tail;
     if :: OUT(R_DRAIN_IMAGE) :: else -> Bump(e); LEFT(0, e); LEFT(1, e) fi;
     d_step {
       image = entry;
       if :: OUT(R_MANIFEST_LAST) -> manifest = 1; manifest_end = durable :: else fi
     }
  :: else
  fi;
  do
  :: calls == 0 -> break
  :: calls > 0 ->
     d_step { !committing -> committing = 1; must = done; calls-- };
     if
     :: NEEDLESS -> goto covered
     :: else
     fi;
     if
     :: owes && !OUT(R_OWED_FIRST) -> owed = 1; goto control
     :: else
     fi;
shift:
     shift_tail = tail;
     d_step { if :: OUT(R_INFINITY) :: else -> update_from = update_from | INFINITE fi };
     d_step { version++; state = (state & 252) + 4 + BITS(version); e = state >> 2 };
     d_step {
       LEFT(0, e) || OUT(R_DRAIN_VERSION) ->
       if :: OUT(R_INFINITY) -> update_from = update_from | INFINITE :: else fi
     };
     LEFT(1, e) || OUT(R_DRAIN_VERSION);
     version_floor = shift_tail;
     d_step { drained = version; e = 0 };
control:
     if
     :: d_step { failures > 0 -> failures--; owes = 1; end = tail };
        d_step { Raise(end); update_from = FLOOR(update_from) };
        goto failed
     :: d_step {
          c = tail; tail++; assert(tail < N); end = tail;
          log[c].control = version - 1;
          TakeSerials(version - 1, c);
          owes = 0; settled = (c == shift_tail)
        }
     fi;
     d_step {
       if
       :: OUT(R_KEEP_FLOOR) -> update_from = end
       :: OUT(R_RAISE_FLOOR)
       :: else -> Raise(end)
       fi;
       update_from = FLOOR(update_from)
     };
     if
     :: d_step { failures > 0 -> failures-- }; goto failed
     :: Shift(end, e)
     fi;
     /* The flush copies bytes that do not change any more, and the sync covers it. */
     d_step {
       safe_read_only >= end ->
       durable = end; committed = version - 1;
       if :: is_checkpoint && OUT(R_IMAGE_BEFORE_BUMP) -> image = entry :: else fi;
       for (i : 0 .. WRITERS - 1) { durable_serial[i] = seen_serial[i] };
       i = 0;
       c_code { note_durable(now.durable); }
     };
     if
     :: owed -> owed = 0; goto shift
     :: else
     fi;
covered:
     atomic {
       c_code { check_commit(PCoordinator->must, now.committed); };
       if :: is_checkpoint && !manifest -> manifest = 1; manifest_end = durable :: else fi
     };
failed:
     atomic { committing = 0; owed = 0; must = 0; end = 0; c = 0; e = 0 }
  od;
  running--
}

/* ---- writers ---- */

/* The operation at hand. Where items overtake each other the second is done first. */
#define ME (w * OPS + (OUT(R_GROUP_IN_ORDER) && c < 2 -> 1 - c : c))
#define SET(o) (1 << (o))
#define IN_GROUP (c + 1 < count[w] && grouped[w * OPS + c + 1])
#define LOOK (state == sw)
#define FIRST_LOOK (LOOK || OUT(R_SECOND_LOOK) || (OUT(R_LOOK_PER_ITEM) && acted != 0))
#define COLD_LOOK (LOOK || OUT(R_LOOK_COLD) || (OUT(R_LOOK_AGAIN) && n != 0))
#define PARITY (OUT(R_TWO_SERIALS) -> 0 : (sw & 1))
#define VERSION_BITS (OUT(R_TWO_VERSION_BITS) -> (sw & 1) : (sw & 3))

/* Part of the step that has the effect. */
inline Acted() { acted = acted | SET(ME); in_version[ME] = FULL(sw & 3) }
/* Leaves the guard; `items` of the operations from c on are done. */
inline Leave(items) {
  if
  :: OUT(R_SERIAL_IN_GUARD) -> slot[w] = 0
  :: else
  fi;
  d_step {
    serial[w].last[PARITY] = (OUT(R_GROUP_IN_ORDER) && c == 0 -> 2 : c + items);
    slot[w] = 0;
    done = done | acted; acted = 0;
    /* Old values would only make states differ. */
    sw = 0; u = 0; h = 0; a = 0; old = 0; flag = 0;
    r = 0; s = 0; floor = 0; dr = 0; where = 0; n = 0
  }
}
#define IS_ABSENT 0
#define IS_MUTABLE 1
#define IS_FROZEN 2
#define IS_UNSETTLED 3

proctype Writer(byte w) {
  byte c, sw, u, h, a, r, s, floor, n, where, old, acted, early; bit flag, dr, hitting;
  do
  :: c == count[w] -> break
  :: else ->
     atomic {
       if
       :: kind[ME] == ANY -> if :: kind[ME] = UPSERT :: kind[ME] = RMW :: kind[ME] = DELETE fi
       :: else
       fi;
       before[ME] = done
     };
     if :: kind[ME] == DELETE -> goto attempt :: else fi;

hit: atomic { sw = state; hitting = 1 };
     d_step { slot[w] = sw; u = update_from };
     /* In a group the entries of all items are loaded first, or each when it is its turn. */
     if
     :: IN_GROUP -> d_step { early = entry; before[ME + 1] = done | SET(ME) }
     :: IN_GROUP -> before[ME + 1] = done | SET(ME)
     :: else
     fi;
item:
     h = (early == 0 -> entry : early);
     d_step { Find(h, key[ME], a); flag = (a != 0 && log[a].tombstone) };
     if
     :: kind[ME] == READ && !FIRST_LOOK -> slot[w] = 0; goto hit
     :: kind[ME] == READ && FIRST_LOOK ->
        d_step {
          if :: a == 0 || flag -> answer[ME] = ABSENT :: else -> answer[ME] = log[a].value fi;
          Acted()
        };
        goto returns
     :: kind[ME] != READ && (!FIRST_LOOK || a < u || flag) ->
        if
        :: acted != 0 -> Leave(OUT(R_SERIAL_PER_ITEM))
        :: else -> slot[w] = 0
        fi;
        goto attempt
     :: else
     fi;
in_place:
     if
     :: kind[ME] == UPSERT -> d_step { WRITE(a); log[a].value = SET(ME); Acted() }
     :: kind[ME] == RMW ->
        old = log[a].value;
        do
        :: d_step {
             log[a].value == old ->
             WRITE(a); log[a].value = old | SET(ME); answer[ME] = old; Acted()
           };
           break
        :: log[a].value != old -> old = log[a].value
        od
     :: kind[ME] == DELETE ->
        if
        :: d_step { !log[a].tombstone -> WRITE(a); log[a].tombstone = 1; Acted() }
        :: log[a].tombstone -> slot[w] = 0; goto attempt
        fi
     fi;
     goto returns;

attempt:
     atomic { sw = state; n = 0; u = 0; early = 0; hitting = 0 };
     d_step { slot[w] = sw; r = read_only; s = safe_read_only };
     d_step { floor = version_floor; dr = (BITS(drained) == (sw & 3)) };
again:
     h = entry;
     d_step {
       Find(h, key[ME], a);              /* links of published records do not change */
       if
       :: a == 0 || log[a].tombstone -> where = IS_ABSENT
       :: else ->
          flag = OUT(R_COMPARE_VERSIONS) || (a >= floor && log[a].bits == VERSION_BITS);
          if
          :: a < s || (!flag && dr) -> where = IS_FROZEN
          :: !(a < s || (!flag && dr)) && a >= r && flag -> where = IS_MUTABLE
          :: else -> where = (OUT(R_WAIT_UNTIL_FROZEN) -> IS_FROZEN : IS_UNSETTLED)
          fi
       fi
     };
     if
     :: !(COLD_LOOK) -> slot[w] = 0; goto attempt
     :: COLD_LOOK && where == IS_MUTABLE -> goto in_place
     :: COLD_LOOK && where == IS_UNSETTLED && kind[ME] != UPSERT ->
        slot[w] = 0;
        /* Another turn would find the same until one of these moves. */
        state != sw || entry != h || read_only != r || safe_read_only != s ||
          version_floor != floor || (BITS(drained) == (sw & 3)) != dr || log[a].tombstone;
        goto attempt
     :: COLD_LOOK && where == IS_ABSENT && kind[ME] == DELETE ->
        d_step { answer[ME] = ABSENT; Acted() };
        goto returns
     :: else
     fi;
     d_step {
       if :: where == IS_FROZEN -> old = log[a].value :: else -> old = ABSENT fi;
       if
       :: n == 0 || (n <= h && !OUT(R_FRESH_PLACE)) -> n = tail; tail++; assert(tail < N)
       :: else
       fi
     };
     if
     :: d_step {
          entry == h -> WRITE(n);
          log[n].bits = VERSION_BITS; log[n].prev = h; log[n].key = key[ME];
          log[n].tombstone = (kind[ME] == DELETE);
          log[n].value = (kind[ME] == DELETE -> 0 :
                          (kind[ME] == RMW -> (old & (ABSENT - 1)) : 0) | SET(ME));
          log[n].valid = 1;
          entry = n;
          answer[ME] = old; Acted()
        }
     :: entry != h -> goto again
     fi;
returns:
     if
     :: hitting && IN_GROUP -> c++; goto item
     :: else -> Leave(1); c++; early = 0; hitting = 0
     fi
  od;
  running--
}

init {
  d_step {
    c_code { set_up(); };
    log[1].bits = (OUT(R_TWO_VERSION_BITS) -> FIRST & 1 : BITS(FIRST));
    log[1].value = START; log[1].valid = 1;
    entry = 1; tail = 2
  };
  atomic {
    run Writer(0); run Writer(1); running = 2;
    if :: commits > 0 -> running++; run Coordinator(commits, 0); commits = 0 :: else fi;
    if :: c_expr { checkpoint > 0 } -> running++; run Coordinator(1, 1) :: else fi;
    if :: c_expr { turns > 0 } -> running++; run Turner() :: else fi
  };
  d_step { running == 0 -> c_code { check(); } }
}
