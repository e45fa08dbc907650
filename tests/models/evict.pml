/* Reads, eviction and Close on one chain of the index.

   A page holds one record, so page numbers are addresses. Sessions run scripts of Read and Rmw as
   operation.h does; a shifter and a flusher are the helpers of hybrid_log.cc; a closer is
   Coordinator::Close without its commits. Every access to a shared word is a step of its own
   unless a comment says why not; steps are sequentially consistent.

   Checked:
   1. A process that holds a guard and an address at or above the head it loaded finds that page's
      bytes in the frame; or zeros once the store is closed, which it does not use.
   2. Bytes read from the device have been written there, and the files are open.
   3. Every Rmw adds one to the count left by those before it, and a Read returns the count at
      some moment of its call.
   4. No byte below safe_read_only changes.
   5. No process waits forever.

   A line of `run` sets these variables of the environment:
     SCRIPT    a word for each session, a letter for each operation: m Rmw, r Read; capitals: of
               the second key
     CLOSE     1: the store is closed during all this
     LEFT_OUT  the number of the rule that is left out */

/* The rules that a twin can leave out. */
#define R_REUSE_SAFE_HEAD    1  /* a frame is used again only below safe_head */
#define R_DRAIN_HEAD         2  /* safe_head moves after a drain */
#define R_HEAD_BEFORE_BUMP   3  /* head is stored before the bump of that drain */
#define R_SLOT_FIRST         4  /* boundaries are loaded after the slot is stored */
#define R_FLUSHED_FIRST      5  /* head stays below flushed_until */
#define R_FLUSH_SAFE         6  /* flushed bytes are below safe_read_only */
#define R_DEVICE_ANSWER      7  /* the device's result counts only while the chain leads there */
#define R_LOOK_VALUE         8  /* a Read looks before it gives a value */
#define R_LOOK_ABSENT        9  /* and before it says that there is none */
#define R_WAIT_SLOW         10  /* Close waits for calls on their slow path */

#define FRAMES 2
#define MUTABLE 1               /* pages above read_only */
#define N 12                    /* pages; 0 is none */
#define SESSIONS 2
#define OPS 4                   /* of one session, at most */
#define OUT(rule) (left_out == rule)
#define FRAME(a) frame[(a) % FRAMES]
#define CLOSED 1

typedef Frame { byte page; byte prev; byte value; byte key };  /* page 0: zeros */
Frame frame[FRAMES];
typedef Block { bit written; byte prev; byte value; byte key };
Block device[N];
byte entry, tail; bit tail_is_full;
byte head = 1, safe_head = 1, flushed = 1, safe_read_only = 1, read_only = 1, update_from = 1;
byte state = 2;                 /* epoch * 2 + closed */
byte slot[SESSIONS]; bit busy[SESSIONS];
bit files_closed;

byte left_out; bit closing;
byte applied[2];                /* Rmws of a key that have taken effect */
byte running;
/* The script, a byte an operation: 0 end, else 1 + key, + 2 for a Read. */
byte script[SESSIONS * OPS];

c_decl { void (*uerror)(char*); };
c_code {
  /* Nothing got lost. */
  static void check(void) {
    int k, a;
    for (k = 0; k < 2; k++) {
      for (a = now.entry; (a >= now.head ? now.frame[a % FRAMES].key : now.device[a].key) != k;)
        a = a >= now.head ? now.frame[a % FRAMES].prev : now.device[a].prev;
      if ((a >= now.head ? now.frame[a % FRAMES].value : now.device[a].value) != now.applied[k])
        uerror("an update got lost");
    }
  }
  static void set_up(void) {
    const char* s = getenv("SCRIPT");
    const char* rule = getenv("LEFT_OUT");
    int o = 0;
    now.left_out = rule ? atoi(rule) : 0;
    now.closing = getenv("CLOSE") != 0;
    for (; s && *s; s++) {
      if (*s == ' ') o = 4;
      else now.script[o++] = 1 + ((*s & 32) == 0) + 2 * ((*s | 32) == 'r');
    }
  }
};

#define LEFT(w, e) (slot[w] == 0 || (slot[w] >> 1) >= e)

/* AdvanceBoundaries and AdvanceSafeBoundaries. */
proctype Shifter() {
  byte e, read_only_target, head_target;
end:
  do
  :: d_step {
       !files_closed && (tail + 1 - MUTABLE > read_only ||
         tail + 2 > FRAMES + head && (flushed > head || OUT(R_FLUSHED_FIRST))) ->
       read_only_target = tail + 1 - MUTABLE;
       head_target = (tail + 2 > FRAMES + head -> tail + 2 - FRAMES : head);
       if :: head_target > flushed && !OUT(R_FLUSHED_FIRST) -> head_target = flushed :: else fi;
       update_from = read_only_target; read_only = read_only_target
     };
     if :: OUT(R_HEAD_BEFORE_BUMP) :: else -> head = head_target fi;
     d_step { state = state + 2; e = state >> 1 };
     if :: OUT(R_HEAD_BEFORE_BUMP) -> head = head_target :: else fi;
     if :: OUT(R_DRAIN_HEAD) -> safe_head = head :: else fi;
     LEFT(0, e); LEFT(1, e);
     d_step {
       safe_read_only = read_only;
       /* The memory of evicted pages is given back. */
       do
       :: safe_head < head ->
          if :: FRAME(safe_head).page == safe_head -> FRAME(safe_head).page = 0 :: else fi;
          safe_head++
       :: else -> break
       od;
       e = 0; read_only_target = 0; head_target = 0
     }
  od
}

proctype Flusher() {
end:
  do
  :: d_step {
       !files_closed &&
         (flushed < safe_read_only || (OUT(R_FLUSH_SAFE) && flushed < read_only)) ->
       assert(FRAME(flushed).page == flushed);
       device[flushed].prev = FRAME(flushed).prev;
       device[flushed].value = FRAME(flushed).value;
       device[flushed].key = FRAME(flushed).key;
       device[flushed].written = 1;
       flushed++
     }
  od
}

proctype Closer() {
  byte e;
  d_step { state = (state + 2) | CLOSED; e = state >> 1 };
  LEFT(0, e); LEFT(1, e);
  !busy[0] || OUT(R_WAIT_SLOW);
  !busy[1] || OUT(R_WAIT_SLOW);
  /* The pool has stopped. */
  d_step {
    files_closed = 1; e = 0;
    frame[0].page = 0; frame[0].prev = 0; frame[0].key = 0; frame[0].value = 0;
    frame[1].page = 0; frame[1].prev = 0; frame[1].key = 0; frame[1].value = 0;
    running--
  }
}

/* ---- sessions ---- */

#define OLDEST (OUT(R_REUSE_SAFE_HEAD) -> head : safe_head)

#define KEY ((script[w * OPS + c] - 1) % 2)
#define IS_READ (script[w * OPS + c] > 2)
#define IS_OUR(a) (FRAME(a).page == a)
#define BYTES_OF(a) assert(IS_OUR(a) || (files_closed && FRAME(a).page == 0))
#define LOOK (state == sw)
#define ANSWER_HOLDS (from == a || OUT(R_DEVICE_ANSWER))

/* From `a` down the chain in memory, a step for each record. */
inline Walk(floor) {
  do
  :: a == 0 || a < floor -> break
  :: else ->
     d_step {
       BYTES_OF(a);
       if :: FRAME(a).key != KEY -> a = FRAME(a).prev; flag = 1 :: else -> flag = 0 fi
     };
     if :: !flag -> break :: else fi
  od
}
inline Enter() {
  atomic { sw = state & (255 - CLOSED); h = head };
  d_step { slot[w] = sw; if :: OUT(R_SLOT_FIRST) :: else -> h = head fi }
}
/* The data on the device does not change, so the walk there is one step. */
inline ReadDevice() {
  d_step {
    from = a;
    do
    :: a != 0 ->
       assert(!files_closed && device[a].written);
       if :: device[a].key == KEY -> break :: else -> a = device[a].prev fi
    :: else -> break
    od;
    answer = (a == 0 -> 0 : device[a].value)
  }
}

proctype Session(byte w) {
  byte c, sw, h, a, r, s, n, old, from, answer, least, e; bit flag, slow;
  do
  :: c == OPS || script[w * OPS + c] == 0 -> break
  :: else ->
     least = applied[KEY];
     if :: !IS_READ -> goto update :: else fi;

read:
     Enter();
     a = entry;
     Walk(h);
     if
     :: a >= h && a != 0 && (LOOK || OUT(R_LOOK_VALUE)) ->
        d_step { BYTES_OF(a); answer = FRAME(a).value };
        goto answered
     :: a == 0 && (LOOK || OUT(R_LOOK_ABSENT)) -> answer = 0; goto answered
     :: a < h && a != 0 && slow && LOOK ->
        slot[w] = 0;
        ReadDevice();
        goto answered
     :: else
     fi;
     slot[w] = 0;
     busy[w] = 1;
     if :: state & CLOSED -> goto over :: else fi;
     slow = 1;
     goto read;

update:
     /* The hit. */
     sw = state & (255 - CLOSED);
     d_step { slot[w] = sw; r = update_from };
     a = entry;
     Walk(r);
     if
     :: a >= r && a != 0 && LOOK -> goto in_place
     :: else -> slot[w] = 0
     fi;
     busy[w] = 1;
attempt:
     if :: state & CLOSED -> goto over :: else fi;
     Enter();
     d_step { r = read_only; s = safe_read_only };
     n = 0;
again:
     a = entry;
     e = a;
     Walk(h);
     if
     :: !LOOK -> slot[w] = 0; goto attempt
     :: LOOK && a >= r && a != 0 -> goto in_place
     :: LOOK && a < r && a >= s && a >= h && a != 0 ->
        slot[w] = 0;
        safe_read_only != s || state != sw;
        goto attempt
     :: LOOK && a < s && a >= h && a != 0 -> d_step { BYTES_OF(a); old = FRAME(a).value }
     :: LOOK && a == 0 -> old = 0
     :: LOOK && a < h && a != 0 && from == 0 -> slot[w] = 0; ReadDevice(); goto attempt
     :: LOOK && a < h && a != 0 && from != 0 && !ANSWER_HOLDS ->
        slot[w] = 0; ReadDevice(); goto attempt
     :: LOOK && a < h && a != 0 && from != 0 && ANSWER_HOLDS -> old = answer
     fi;
     if
     :: n > e && n != 0
     :: n <= e || n == 0 ->
        if
        :: d_step { !tail_is_full -> n = tail; tail_is_full = 1 }
        :: tail_is_full ->
           slot[w] = 0;
           /* WaitForPage; nobody helps any more once the store is closed. */
           if
           :: d_step {
                tail_is_full && tail + 1 - OLDEST < FRAMES ->
                tail++; tail_is_full = 0; assert(tail < N);
                /* Ours from here on: the old page of the frame is gone. */
                FRAME(tail).page = tail
              }
           :: !tail_is_full
           fi;
           goto attempt
        fi
     fi;
     if
     :: d_step {
          entry == e ->
          assert(n >= safe_read_only && IS_OUR(n));
          FRAME(n).prev = e; FRAME(n).key = KEY; FRAME(n).value = old + 1;
          entry = n; answer = old; applied[KEY]++
        }
     :: entry != e -> goto again
     fi;
     goto updated;

in_place:
     atomic { BYTES_OF(a); old = FRAME(a).value };
     if
     :: d_step {
          FRAME(a).value == old ->
          assert(a >= safe_read_only && IS_OUR(a));
          FRAME(a).value = old + 1;
          answer = old; applied[KEY]++
        }
     :: FRAME(a).value != old -> goto in_place
     fi;
updated:
     /* The result of the Rmw and the number applied grow together. */
     assert(answer + 1 <= applied[KEY] && answer >= least);
answered:
     atomic { assert(!IS_READ || (answer >= least && answer <= applied[KEY])); slot[w] = 0 };
over:
     atomic {
       busy[w] = 0;
       sw = 0; h = 0; a = 0; r = 0; s = 0; n = 0; old = 0; from = 0; answer = 0; least = 0; e = 0;
       flag = 0; slow = 0; c++
     }
  od;
  running--
}

init {
  /* A record of each key, on a page each; the next record needs a frame. */
  d_step {
    c_code { set_up(); };
    frame[1].page = 1; frame[1].value = 1; frame[1].key = 0;
    frame[0].page = 2; frame[0].value = 1; frame[0].key = 1; frame[0].prev = 1;
    entry = 2; tail = 2; tail_is_full = 1; applied[0] = 1; applied[1] = 1
  };
  atomic {
    run Session(0); run Session(1); running = 2;
    run Shifter(); run Flusher();
    if :: closing -> running++; run Closer() :: else fi
  };
  running == 0;
  d_step { c_code { if (!now.files_closed) check(); } }
}
