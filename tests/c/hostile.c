/* Hosts that break the rules: the library answers with an error or not at all, and never crashes, hangs or leaks.
 *
 *   hostile [CASE]...           LOMUSAI_ROUNDS runs each (5,000)
 *   hostile --soak CASE ROUNDS  the same, and what is allocated must not grow by more than 1 MiB in the second half. Counted by
 *                               count_malloc.c, which is to be preloaded. A case that is about processes starts one for each 20 rounds. */
#include "check.h"

#include <dirent.h>
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

static int rounds = 5000;
static lomusai_engine *engine;

static int threads(void) {
  int count = 0;
  DIR *folder = opendir("/proc/self/task");
  while (folder != NULL && readdir(folder) != NULL) count++;
  if (folder != NULL) closedir(folder);
  return count;
}

/* KiB that are allocated and not given back, as count_malloc.c counts them. */
static int64_t allocated(void) {
  struct {
    int64_t blocks, bytes, process;
  } count;
  const char *path = getenv("LOMUSAI_MALLOC_COUNT");
  FILE *file = path != NULL ? fopen(path, "rb") : NULL;
  MUST(file != NULL && fread(&count, sizeof count, 1, file) == 1 && count.process == getpid() && "a soak needs count_malloc.c");
  fclose(file);
  return count.bytes / 1024;
}

static bool soaks;

/* A soak says ten times where it is. */
static void progress(int done, int times, time_t begun) {
  if (times < 10 || done % (times / 10) != 0) return;
  printf("  %d of %d after %ld s: %" PRId64 " KiB allocated, %d threads\n", done, times, (long)(time(NULL) - begun), allocated(), threads());
  fflush(stdout);
}

/* Finished runs that an engine keeps. */
#define KEPT 10
#define KEEPS_FEW "{\"keep_finished\":10}"

/* `body` so many times; in a soak, what is allocated is compared half way and at the end. Not where all that was done is still kept. */
static void often(int times, void (*body)(void)) {
  int64_t half = 0;
  time_t begun = time(NULL);
  for (int i = 0; i < times && atomic_load(&checks_failed) == 0; i++) {
    if (soaks && i == times / 2) half = allocated();
    body();
    if (soaks) progress(i + 1, times, begun);
  }
  if (soaks && times / 2 > KEPT) {
    int64_t grown = allocated() - half;
    printf("  %d times, the second half grew by %" PRId64 " KiB\n", times, grown);
    CHECK(grown <= 1024);
    /* As many as may run at once, and the engine's own: a thread is memory, too. */
    CHECK(threads() <= 320);
  }
}

/* `body` so many times on one engine. It keeps few runs, so that memory stands still early. */
static void repeat_times(int times, const char *script, const char *spec, lomusai_call_fn tool, void *userdata, void (*body)(void)) {
  lomusai_engine_options options = {0};
  options.struct_size = sizeof options;
  options.config_json = KEEPS_FEW;
  OK(lomusai_engine_open(&options, &engine, ERR));
  if (spec != NULL) OK(lomusai_register_tool(engine, TEXT(spec), LOMUSAI_POOL, tool, userdata, NULL, ERR));
  scripted_agent(engine, spec != NULL ? "[\"tool\"]" : "[]", script);
  often(times, body);
  OK(lomusai_engine_close(engine, 20000, ERR));
  lomusai_engine_free(engine);
}

static void repeat(const char *script, const char *spec, lomusai_call_fn tool, void *userdata, void (*body)(void)) {
  repeat_times(rounds, script, spec, tool, userdata, body);
}

#define CALLS_TOOL "[{\"calls\":[{\"name\":\"tool\"}]},{\"says\":\"on\"}]"
#define TOOL "{\"name\":\"tool\"}"

/* The model was told something of this kind, and the run went on. */
static const char *expected;

static void run_expecting(void) {
  char *result = run_agent(engine, REQUEST);
  CHECK(contains(result, "\"status\":\"completed\""));
  if (!contains(result, expected)) {
    CHECK(!"the model was told");
    printf("  expected %s in %.2000s\n", expected, result ? result : "nothing");
  }
  lomusai_string_free(result);
}

/* --- Answers that should not be ------------------------------------------------------------------------------------ */

static void twice(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  OK(lomusai_answer_resolve(answer, LIT("\"first\""), ERR));
  FAILS("already_answered", lomusai_answer_resolve(answer, LIT("\"second\""), ERR));
  FAILS("already_answered", lomusai_answer_reject(answer, NULL, LIT("third"), ERR));
  FAILS("already_answered", lomusai_answer_suspend(answer, LIT("4"), ERR));
  lomusai_answer_free(answer);
}

static void answers_twice(void) {
  expected = "\"first\"";
  repeat(CALLS_TOOL, TOOL, twice, NULL, run_expecting);
}

static void dropped(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  lomusai_answer_retain(answer);
  lomusai_answer_free(answer);
  lomusai_answer_free(answer);
}

static void drops_unanswered(void) {
  expected = "let go of its call without an answer";
  repeat(CALLS_TOOL, TOOL, dropped, NULL, run_expecting);
}

static void not_json(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  FAILS("json_invalid", lomusai_answer_resolve(answer, LIT("{\"a\":"), ERR));
  FAILS("json_invalid", lomusai_answer_resolve(answer, LIT(""), ERR));
  FAILS("json_invalid", lomusai_answer_resolve(answer, LIT("NaN"), ERR));
  FAILS("argument_invalid", lomusai_answer_reply(answer, LIT("[1]"), ERR));
  FAILS("json_invalid", lomusai_answer_progress(answer, LIT("{"), ERR));
  FAILS("argument_invalid", lomusai_answer_reject(answer, "no_such_code", LIT("x"), ERR));
  FAILS("unsupported", lomusai_answer_push(answer, LIT("\"x\""), ERR));
  FAILS("unsupported", lomusai_answer_finish(answer, ERR));
  lomusai_answer_free(answer);
}

static void answers_invalid_json(void) {
  expected = "let go of its call without an answer";
  repeat(CALLS_TOOL, TOOL, not_json, NULL, run_expecting);
}

static void bad_text(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  FAILS("utf8_invalid", lomusai_answer_resolve(answer, LIT("\"\xff\xfe\""), ERR));
  FAILS("utf8_invalid", lomusai_answer_reject(answer, "\xc3", LIT("x"), ERR));
  FAILS("utf8_invalid", lomusai_answer_custom(answer, "\xed\xa0\x80", LIT("1"), false, ERR));
  FAILS("json_invalid", lomusai_answer_resolve(answer, LIT("\"\0\""), ERR)); /* a bare NUL is not JSON */
  OK(lomusai_answer_resolve(answer, LIT("\"a\\u0000b\""), ERR));             /* an escaped one is */
  lomusai_answer_free(answer);
}

static void answers_invalid_utf8_and_nul(void) {
  expected = "a\\u0000b";
  repeat(CALLS_TOOL, TOOL, bad_text, NULL, run_expecting);
}

static void nul_message(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  OK(lomusai_answer_reject(answer, NULL, LIT("be\0fore"), ERR));
  lomusai_answer_free(answer);
}

static void rejects_with_nul_bytes(void) {
  expected = "be\\u0000fore";
  repeat(CALLS_TOOL, TOOL, nul_message, NULL, run_expecting);
}

/* --- Never, late ---------------------------------------------------------------------------------------------------- */

static lomusai_answer *_Atomic kept;

static void keep(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)input;
  lomusai_answer_free(atomic_exchange(&kept, answer));
  atomic_fetch_add((atomic_int *)userdata, 1);
}

static atomic_int keeps;

/* So many runs wait at once for what does not come: alone, each would wait for the clock. */
enum { AT_ONCE = 25 };

/* Answers that nobody gave. A call may come while the ones before are still on their way: what is kept is let go of only by `refuse_unanswered`. */
static lomusai_answer *unanswered[4 * AT_ONCE];
static atomic_int unanswered_count;
static pthread_mutex_t unanswered_lock = PTHREAD_MUTEX_INITIALIZER;

static void keep_all(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  pthread_mutex_lock(&unanswered_lock);
  MUST(unanswered_count < 4 * AT_ONCE);
  unanswered[unanswered_count++] = answer;
  pthread_mutex_unlock(&unanswered_lock);
}

static void refuse_unanswered(void) {
  pthread_mutex_lock(&unanswered_lock);
  while (unanswered_count > 0) {
    lomusai_answer *answer = unanswered[--unanswered_count];
    FAILS("handle_closed", lomusai_answer_resolve(answer, LIT("1"), ERR));
    CHECK(lomusai_answer_is_cancelled(answer));
    lomusai_answer_free(answer);
  }
  pthread_mutex_unlock(&unanswered_lock);
}

/* A millisecond may be over before the callback is called: then it is not called any more, or only now. */
static void run_kept_at_once(const char *request) {
  lomusai_run *runs[AT_ONCE] = {NULL};
  for (int i = 0; i < AT_ONCE; i++) {
    OK(lomusai_run_start(engine, TEXT(request), NULL, &runs[i], ERR));
    lomusai_run_discard_events(runs[i]);
  }
  for (int i = 0; i < AT_ONCE; i++) {
    char *result = NULL;
    OK(lomusai_run_result(runs[i], 60000, &result, ERR));
    CHECK(contains(result, expected) && contains(result, "did not answer within 1 ms"));
    lomusai_string_free(result);
    lomusai_run_free(runs[i]);
  }
  refuse_unanswered();
}

static void run_kept(void) { run_kept_at_once(REQUEST); }

static void never_answers(void) {
  expected = "\"status\":\"completed\"";
  repeat_times(rounds / AT_ONCE, CALLS_TOOL, "{\"name\":\"tool\",\"timeout_ms\":1}", keep_all, NULL, run_kept);
  while (unanswered_count > 0) lomusai_answer_free(unanswered[--unanswered_count]);
}

static void run_cancelled(void) {
  lomusai_run *run = NULL;
  char *result = NULL;
  int before = atomic_load(&keeps);
  OK(lomusai_run_start(engine, LIT(REQUEST), NULL, &run, ERR));
  lomusai_run_discard_events(run);
  CHECK(reaches(&keeps, before + 1));
  OK(lomusai_run_cancel(run, 0, NULL, ERR));
  OK(lomusai_run_result(run, 20000, &result, ERR));
  CHECK(contains(result, "\"status\":\"cancelled\""));
  FAILS("handle_closed", lomusai_answer_resolve(kept, LIT("1"), ERR));
  lomusai_answer_free(atomic_exchange(&kept, NULL));
  lomusai_string_free(result);
  lomusai_run_free(run);
}

static void answers_after_cancel(void) { repeat(CALLS_TOOL, TOOL, keep, &keeps, run_cancelled); }

/* Ten runs on an engine of their own each time. */
static void close_then_answer(void) {
  enum { RUNS = 10 };
  static int turn;
  bool engine_first = turn++ % 2;
  lomusai_run *runs[RUNS] = {NULL};
  engine = open_engine();
  OK(lomusai_register_tool(engine, LIT(TOOL), 0, keep_all, NULL, NULL, ERR));
  scripted_agent(engine, "[\"tool\"]", CALLS_TOOL);
  for (int i = 0; i < RUNS; i++) OK(lomusai_run_start(engine, LIT(REQUEST), NULL, &runs[i], ERR));
  CHECK(reaches(&unanswered_count, RUNS));
  OK(lomusai_engine_close(engine, 20000, ERR));
  if (engine_first) lomusai_engine_free(engine);
  refuse_unanswered();
  for (int i = 0; i < RUNS; i++) lomusai_run_free(runs[i]);
  if (!engine_first) lomusai_engine_free(engine);
}

static void answers_after_close(void) { often(rounds / 10, close_then_answer); }

/* --- Large ---------------------------------------------------------------------------------------------------------- */

static size_t size;

static void large(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  char *text = malloc(size);
  memset(text, 'x', size);
  text[0] = text[size - 1] = '"';
  OK(lomusai_answer_resolve(answer, text, size, ERR));
  free(text);
  lomusai_answer_free(answer);
}

static size_t limit;
static const char *large_request;

/* By turns with its quotes just what is allowed, and one more. */
static void run_large(void) {
  if (size == 0)
    OK(lomusai_register_agent(engine, LIT("{\"name\":\"small\",\"model\":\"model\",\"tools\":[\"tool\"],\"limits\":{\"result_bytes\":16384}}"), ERR));
  bool fits = size != limit;
  size = fits ? limit : limit + 1;
  expected = fits ? "xxxx" : "more than limits.result_bytes";
  char *result = run_agent(engine, large_request);
  CHECK(contains(result, "\"status\":\"completed\"") && contains(result, expected));
  lomusai_string_free(result);
}

/* 64 MiB are written, copied and read in seconds, which is too long for thousands of runs. So the true limit is met a few
 * times, and a lower one, which is the same code, as often as in the other cases. Under valgrind only the lower one. */
static void answers_64_mib(void) {
  size = 0;
  limit = 16u << 10;
  large_request = "{\"agent\":\"small\",\"input\":\"go\"}";
  repeat(CALLS_TOOL, TOOL, large, NULL, run_large);
  if (rounds <= 50) return;
  size = 0;
  limit = 64u << 20;
  large_request = REQUEST;
  repeat_times(8, CALLS_TOOL, TOOL, large, NULL, run_large);
}

/* --- Calls back into the engine ------------------------------------------------------------------------------------- */

static atomic_int depth;
static int depth_max = 1000;

static void nested(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  if (atomic_fetch_add(&depth, 1) + 1 < depth_max) {
    char *result = run_agent(engine, REQUEST);
    CHECK(contains(result, "\"status\":\"completed\""));
    lomusai_string_free(result);
  }
  OK(lomusai_answer_resolve(answer, LIT("0"), ERR));
  lomusai_answer_free(answer);
}

static void run_nested(void) {
  atomic_store(&depth, 0);
  run_expecting();
  CHECK(atomic_load(&depth) == depth_max);
}

/* Each time is a thousand runs, one within the other. Valgrind has room for 500 threads in all, so there it is fifty. */
static void calls_back_a_thousand_deep(void) {
  depth_max = rounds < 1000 ? 50 : 1000;
  expected = "\"on\"";
  repeat_times(rounds < 1000 ? 1 : rounds / 1000, CALLS_TOOL, TOOL, nested, NULL, run_nested);
}

static void frees_itself(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  bool existed = false;
  OK(lomusai_unregister(engine, "tool", "tool", &existed, ERR));
  OK(lomusai_answer_resolve(answer, LIT("0"), ERR));
  lomusai_answer_free(answer);
}

static void run_unregistered(void) {
  run_expecting();
  OK(lomusai_register_tool(engine, LIT(TOOL), 0, frees_itself, NULL, count_drop, ERR));
}

static void unregisters_itself(void) {
  expected = "\"on\"";
  repeat(CALLS_TOOL, TOOL, frees_itself, NULL, run_unregistered);
}

static atomic_int closed;

static void closes(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  lomusai_engine_close(engine, 5000, NULL);
  lomusai_answer_resolve(answer, LIT("0"), NULL);
  lomusai_answer_free(answer);
  atomic_fetch_add(&closed, 1);
}

static void run_closed(void) {
  int before = atomic_load(&closed);
  engine = open_engine();
  OK(lomusai_register_tool(engine, LIT(TOOL), 0, closes, NULL, NULL, ERR));
  scripted_agent(engine, "[\"tool\"]", CALLS_TOOL);
  lomusai_run *run = NULL;
  OK(lomusai_run_start(engine, LIT(REQUEST), NULL, &run, ERR));
  lomusai_run_discard_events(run);
  lomusai_run_result(run, 20000, NULL, NULL);
  CHECK(reaches(&closed, before + 1));
  lomusai_run_free(run);
  lomusai_engine_free(engine);
}

static void closes_in_a_callback(void) { often(rounds, run_closed); }

static lomusai_run *victim;

static void frees(void *userdata, lomusai_str event) {
  (void)event;
  atomic_int *seen = userdata;
  if (atomic_fetch_add(seen, 1) == 0) {
    while (*(lomusai_run *volatile *)&victim == NULL) sleep_ms(1);
    lomusai_run_free(victim);
  }
}

static atomic_int freed_done;
static void freed(void *userdata, lomusai_str result, const lomusai_error *error) {
  (void)userdata;
  (void)result;
  (void)error;
  atomic_fetch_add(&freed_done, 1);
}

static void run_freed(void) {
  static atomic_int seen;
  int before = atomic_load(&freed_done);
  lomusai_run_options options = {0};
  options.struct_size = sizeof options;
  options.on_event = frees;
  options.on_done = freed;
  options.userdata = &seen;
  atomic_store(&seen, 0);
  victim = NULL;
  lomusai_run *run = NULL;
  OK(lomusai_run_start(engine, LIT(REQUEST), &options, &run, ERR));
  *(lomusai_run *volatile *)&victim = run;
  CHECK(reaches(&freed_done, before + 1));
}

static void frees_the_run_in_its_callback(void) { repeat("[{\"says\":\"a b\"}]", NULL, NULL, NULL, run_freed); }

/* --- Processes ------------------------------------------------------------------------------------------------------ */

static int place;

static void exit_in_mid_run(void) {
  place++;
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    engine = open_engine();
    scripted_agent(engine, "[]", place % 2 ? "[{\"hangs\":true}]" : "[{\"says\":\"a b c d e f g\"}]");
    lomusai_run *run = NULL;
    char *event = NULL;
    OK(lomusai_run_start(engine, LIT(REQUEST), NULL, &run, ERR));
    lomusai_run_next(run, 1000, &event, ERR);
    exit(7);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 7);
}

/* Starting and ending a process takes a hundred times as long as what is looked for: a soak does it for each 20 rounds. */
static int processes(void) { return soaks ? rounds / 20 : rounds; }

static void exits_in_mid_run(void) { often(processes(), exit_in_mid_run); }

/* What belongs to the parent. */
static lomusai_run *inherited_run;
static lomusai_observer *inherited_observer;

static void refused_in_the_child(void) {
  lomusai_run *run = inherited_run;
  char *text = NULL;
  FAILS("engine_forked", lomusai_run_next(run, 0, &text, ERR));
  FAILS("engine_forked", lomusai_run_result(run, 0, &text, ERR));
  FAILS("engine_forked", lomusai_run_cancel(run, 0, NULL, ERR));
  lomusai_run_discard_events(run);
  FAILS("engine_forked", lomusai_run_start(engine, LIT(REQUEST), NULL, &run, ERR));
  FAILS("engine_forked", lomusai_engine_call(engine, "runs", NULL, 0, &text, ERR));
  FAILS("engine_forked", lomusai_engine_start(engine, NULL, ERR));
  FAILS("engine_forked", lomusai_engine_close(engine, 100, ERR));
  FAILS("engine_forked", lomusai_register_agent(engine, LIT("{\"name\":\"x\",\"model\":\"model\"}"), ERR));
  FAILS("engine_forked", lomusai_engine_set_log(engine, NULL, NULL, NULL, ERR));
  FAILS("engine_forked", lomusai_answer_resolve(kept, LIT("1"), ERR));
  FAILS("engine_forked", lomusai_observer_next(inherited_observer, 0, &text, ERR));
}

static void in_the_child(void) {
  alarm(20);
  for (int i = 0; i < (soaks ? 20 : 1); i++) refused_in_the_child();
  lomusai_run_close(inherited_run);
  lomusai_run_free(inherited_run);
  lomusai_answer_free(atomic_exchange(&kept, NULL));
  lomusai_observer_free(inherited_observer);
  lomusai_engine_free(engine);
  /* A new engine works. */
  engine = open_engine();
  scripted_agent(engine, "[]", "[{\"says\":\"from the child\"}]");
  char *result = run_agent(engine, REQUEST);
  CHECK(contains(result, "from the child"));
  lomusai_string_free(result);
  close_engine(engine);
}

static void fork_a_child(void) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    in_the_child();
    fflush(stdout);
    /* What the parent's threads held is lost to the child. Another program in its place has no such leaks for valgrind to report. */
    if (atomic_load(&checks_failed) == 0) execl("/bin/true", "true", (char *)NULL);
    _exit(1);
  }
  int status = 0;
  waitpid(child, &status, 0);
  CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static void a_forked_child_uses_the_engine(void) {
  int before = atomic_load(&keeps);
  engine = open_engine();
  OK(lomusai_register_tool(engine, LIT(TOOL), 0, keep, &keeps, NULL, ERR));
  scripted_agent(engine, "[\"tool\"]", CALLS_TOOL);
  OK(lomusai_run_start(engine, LIT(REQUEST), NULL, &inherited_run, ERR));
  CHECK(reaches(&keeps, before + 1));
  OK(lomusai_observe(engine, lomusai_run_id(inherited_run), 0, &inherited_observer, ERR));
  often(processes(), fork_a_child);
  /* The parent's is as it was. */
  OK(lomusai_answer_resolve(kept, LIT("1"), ERR));
  lomusai_answer_free(atomic_exchange(&kept, NULL));
  lomusai_observer_free(inherited_observer);
  lomusai_run_discard_events(inherited_run);
  char *result = NULL;
  OK(lomusai_run_result(inherited_run, 20000, &result, ERR));
  CHECK(contains(result, "\"status\":\"completed\""));
  lomusai_string_free(result);
  lomusai_run_free(inherited_run);
  close_engine(engine);
}

/* --- NULL, and numbers from elsewhere ------------------------------------------------------------------------------- */

static void null_in_a_callback(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  FAILS("argument_invalid", lomusai_answer_resolve(answer, NULL, 3, ERR));
  FAILS("argument_invalid", lomusai_answer_resolve(answer, "x", SIZE_MAX, ERR));
  FAILS("argument_invalid", lomusai_answer_reply(answer, NULL, 0, ERR));
  FAILS("argument_invalid", lomusai_answer_custom(answer, NULL, NULL, 0, false, ERR));
  FAILS("argument_invalid", lomusai_answer_on_cancel(answer, NULL, NULL, count_drop, ERR));
  FAILS("argument_invalid", lomusai_answer_facts(answer, NULL, ERR));
  OK(lomusai_answer_resolve(answer, LIT("0"), ERR));
  lomusai_answer_free(answer);
}

static void run_null(void) {
  lomusai_run *run = NULL;
  lomusai_observer *observer = NULL;
  char *text = NULL;
  const char *a = "argument_invalid";
  run_expecting();
  FAILS(a, lomusai_engine_open(NULL, NULL, ERR));
  FAILS(a, lomusai_engine_start(NULL, NULL, ERR));
  FAILS(a, lomusai_engine_close(NULL, 0, ERR));
  lomusai_engine_free(NULL);
  CHECK(lomusai_engine_is_closed(NULL));
  FAILS(a, lomusai_engine_set_log(NULL, NULL, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_tool(NULL, NULL, 0, 0, NULL, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_workflow(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_register_workflow(engine, NULL, 0, ERR));
  FAILS(a, lomusai_register_step(NULL, NULL, 0, NULL, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_step(engine, NULL, 0, null_in_a_callback, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_step(engine, "s2", 0, NULL, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_tool(engine, NULL, 0, 0, null_in_a_callback, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_tool(engine, LIT("{\"name\":\"t2\"}"), 0xFFFFFFFF, null_in_a_callback, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_function(engine, NULL, 0, null_in_a_callback, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_provider(engine, "p", 2, null_in_a_callback, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_embedder(engine, "e", 1, 0, NULL, NULL, count_drop, ERR));
  FAILS("utf8_invalid", lomusai_register_function(engine, "\xff", 0, null_in_a_callback, NULL, count_drop, ERR));
  FAILS(a, lomusai_register_builtin_provider(engine, "p", NULL, 0, ERR));
  FAILS(a, lomusai_register_agent(engine, NULL, 0, ERR));
  FAILS(a, lomusai_unregister(engine, NULL, NULL, NULL, ERR));
  FAILS(a, lomusai_unregister(engine, "gremlin", "x", NULL, ERR));
  FAILS(a, lomusai_engine_call(engine, NULL, NULL, 0, NULL, ERR));
  FAILS(a, lomusai_engine_call(engine, "dance", NULL, 0, NULL, ERR));
  FAILS(a, lomusai_engine_command(engine, NULL, NULL, 0, ERR));
  FAILS(a, lomusai_engine_command(engine, "r", LIT("{\"type\":\"explode\"}"), ERR));
  FAILS(a, lomusai_engine_export_journal(engine, NULL, &text, ERR));
  FAILS(a, lomusai_engine_digest(engine, "r", NULL, ERR));
  FAILS(a, lomusai_engine_list_runs(engine, NULL, 0, NULL, ERR));
  FAILS(a, lomusai_engine_pending(NULL, &text, ERR));
  FAILS(a, lomusai_engine_delete_run(engine, NULL, NULL, ERR));
  FAILS(a, lomusai_run_start(engine, LIT(REQUEST), NULL, NULL, ERR));
  FAILS(a, lomusai_run_start(engine, NULL, 0, NULL, &run, ERR));
  FAILS(a, lomusai_run_start(NULL, NULL, 0, NULL, &run, ERR));
  FAILS(a, lomusai_run_resume(engine, NULL, NULL, 0, NULL, &run, ERR));
  FAILS(a, lomusai_run_next(NULL, 0, &text, ERR));
  FAILS(a, lomusai_run_next(NULL, 0, NULL, ERR));
  FAILS(a, lomusai_run_result(NULL, 0, NULL, ERR));
  FAILS(a, lomusai_run_cancel(NULL, 0, NULL, ERR));
  lomusai_run_discard_events(NULL);
  lomusai_run_close(NULL);
  lomusai_run_free(NULL);
  CHECK(strcmp(lomusai_run_id(NULL), "") == 0);
  FAILS(a, lomusai_observe(engine, NULL, 0, &observer, ERR));
  FAILS(a, lomusai_observe(engine, "r", 0, NULL, ERR));
  FAILS(a, lomusai_observer_next(NULL, 0, &text, ERR));
  lomusai_observer_free(NULL);
  FAILS(a, lomusai_answer_resolve(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_reply(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_suspend(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_reject(NULL, NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_reject_json(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_push(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_try_push(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_finish(NULL, ERR));
  FAILS(a, lomusai_answer_progress(NULL, NULL, 0, ERR));
  FAILS(a, lomusai_answer_custom(NULL, NULL, NULL, 0, false, ERR));
  FAILS(a, lomusai_answer_on_cancel(NULL, NULL, NULL, count_drop, ERR));
  FAILS(a, lomusai_answer_facts(NULL, NULL, ERR));
  CHECK(lomusai_answer_is_cancelled(NULL));
  CHECK(lomusai_answer_slot(NULL) == NULL);
  lomusai_answer_retain(NULL);
  lomusai_answer_free(NULL);
  CHECK(lomusai_error_status(NULL) == LOMUSAI_OK);
  CHECK(strcmp(lomusai_error_code(NULL), "") == 0 && strcmp(lomusai_error_message(NULL), "") == 0);
  CHECK(strcmp(lomusai_error_json(NULL), "null") == 0);
  CHECK(!lomusai_error_retryable(NULL) && lomusai_error_retry_after_ms(NULL) == -1);
  lomusai_error_free(NULL);
  lomusai_string_free(NULL);
  /* Nobody wants to know why. */
  CHECK(lomusai_run_start(NULL, NULL, 0, NULL, NULL, NULL) == LOMUSAI_E_INVALID);
  /* A struct of a version that is not ours. */
  struct {
    lomusai_run_options known;
    void *unknown[8];
  } newer;
  memset(&newer, 0, sizeof newer);
  newer.known.struct_size = sizeof newer;
  OK(lomusai_run_start(engine, LIT(REQUEST), &newer.known, &run, ERR));
  lomusai_run_discard_events(run);
  OK(lomusai_run_result(run, 20000, NULL, ERR));
  lomusai_run_free(run);
  newer.known.struct_size = sizeof(size_t);
  OK(lomusai_run_start(engine, LIT(REQUEST), &newer.known, &run, ERR));
  lomusai_run_discard_events(run);
  OK(lomusai_run_result(run, 20000, NULL, ERR));
  lomusai_run_free(run);
}

static void null_everywhere(void) {
  expected = "\"on\"";
  repeat(CALLS_TOOL, TOOL, null_in_a_callback, NULL, run_null);
}

/* --- Steps of workflows --------------------------------------------------------------------------------------------- */

#define FLOW "{\"workflow\":\"flow\",\"input\":\"go\"}"

/* A workflow of one step that this callback serves, run so many times; its result has `expected` in it each time. */
static void run_step(void) {
  char *result = run_agent(engine, FLOW);
  if (!contains(result, expected)) {
    CHECK(!"the run came to what was expected");
    printf("  expected %s in %.2000s\n", expected, result ? result : "nothing");
  }
  lomusai_string_free(result);
}

static void repeat_step(int times, const char *more, lomusai_call_fn step, void *userdata, void (*body)(void)) {
  lomusai_engine_options options = {0};
  char spec[256];
  options.struct_size = sizeof options;
  options.config_json = KEEPS_FEW;
  OK(lomusai_engine_open(&options, &engine, ERR));
  OK(lomusai_register_step(engine, "bad", LOMUSAI_POOL, step, userdata, NULL, ERR));
  snprintf(spec, sizeof spec, "{\"name\":\"flow\",\"steps\":[{\"id\":\"a\",\"run\":{\"step\":\"bad\"}%s}]}", more);
  OK(lomusai_register_workflow(engine, TEXT(spec), ERR));
  often(times, body);
  OK(lomusai_engine_close(engine, 20000, ERR));
  lomusai_engine_free(engine);
}

static void a_step_answers_twice(void) {
  expected = "\"first\"";
  repeat_step(rounds, "", twice, NULL, run_step);
}

static void a_step_drops_unanswered(void) {
  expected = "step_unanswered";
  repeat_step(rounds, "", dropped, NULL, run_step);
}

static void a_step_answers_invalid_json(void) {
  expected = "step_unanswered";
  repeat_step(rounds, "", not_json, NULL, run_step);
}

static void rejects_fatally(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  OK(lomusai_answer_reject(answer, "step_fatal", LIT("never"), ERR));
  lomusai_answer_free(answer);
}

static void a_step_fails_for_good(void) {
  expected = "\"code\":\"step_fatal\"";
  repeat_step(rounds, ",\"retry\":{\"max\":5}", rejects_fatally, NULL, run_step);
}

static void run_step_kept(void) { run_kept_at_once(FLOW); }

static void a_step_never_answers(void) {
  expected = "step_timeout";
  repeat_step(rounds / AT_ONCE, ",\"timeout_ms\":1", keep_all, NULL, run_step_kept);
}

static void run_step_cancelled(void) {
  lomusai_run *run = NULL;
  char *result = NULL;
  int before = atomic_load(&keeps);
  OK(lomusai_run_start(engine, LIT(FLOW), NULL, &run, ERR));
  lomusai_run_discard_events(run);
  CHECK(reaches(&keeps, before + 1));
  OK(lomusai_run_cancel(run, 0, NULL, ERR));
  OK(lomusai_run_result(run, 20000, &result, ERR));
  CHECK(contains(result, "\"status\":\"cancelled\""));
  lomusai_string_free(result);
  lomusai_run_free(run);
  lomusai_answer *answer = atomic_exchange(&kept, NULL);
  FAILS("handle_closed", lomusai_answer_resolve(answer, LIT("1"), ERR));
  lomusai_answer_free(answer);
}

static void a_step_answers_after_cancel(void) { repeat_step(rounds, "", keep, &keeps, run_step_cancelled); }

static void answer_100_mb(void *userdata, lomusai_str input, lomusai_answer *answer) {
  size_t len = 100000000;
  char *text = malloc(len);
  (void)userdata;
  (void)input;
  MUST(text != NULL);
  memset(text, 'x', len);
  text[0] = text[len - 1] = '"';
  OK(lomusai_answer_resolve(answer, text, len, ERR));
  free(text);
  lomusai_answer_free(answer);
}

static void a_step_answers_100_mb(void) {
  expected = "result_too_large";
  repeat_step(2, "", answer_100_mb, NULL, run_step);
}

static void *resume_it(void *userdata) {
  lomusai_run *run = NULL;
  lomusai_error *error = NULL;
  const char *command = "{\"type\":\"resume\",\"data\":1}";
  if (lomusai_run_resume(engine, userdata, TEXT(command), NULL, &run, &error) == LOMUSAI_OK) {
    lomusai_run_discard_events(run);
    OK(lomusai_run_result(run, 20000, NULL, ERR));
    lomusai_run_free(run);
    return userdata;
  }
  const char *code = lomusai_error_code(error);
  CHECK(strcmp(code, "run_active") == 0 || strcmp(code, "run_finished") == 0 || strcmp(code, "effect_unknown") == 0);
  lomusai_error_free(error);
  return NULL;
}

static void suspends_once(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char *facts = NULL;
  (void)input;
  OK(lomusai_answer_facts(answer, &facts, ERR));
  if (contains(facts, "\"resume\":")) {
    atomic_fetch_add((atomic_int *)userdata, 1);
    OK(lomusai_answer_resolve(answer, LIT("true"), ERR));
  } else {
    OK(lomusai_answer_suspend(answer, LIT("\"?\""), ERR));
  }
  lomusai_string_free(facts);
  lomusai_answer_free(answer);
}

static atomic_int resumed;

/* Two threads resume one run at once: one of them does, the other is told, and the step is called once more. */
static void run_resumed_twice(void) {
  pthread_t other;
  void *theirs = NULL;
  char id[128];
  lomusai_run *run = NULL;
  int before = atomic_load(&resumed);
  OK(lomusai_run_start(engine, LIT(FLOW), NULL, &run, ERR));
  lomusai_run_discard_events(run);
  OK(lomusai_run_result(run, 20000, NULL, ERR));
  snprintf(id, sizeof id, "%s", lomusai_run_id(run));
  lomusai_run_free(run);
  MUST(pthread_create(&other, NULL, resume_it, id) == 0);
  void *mine = resume_it(id);
  pthread_join(other, &theirs);
  CHECK((mine == NULL) != (theirs == NULL));
  CHECK(atomic_load(&resumed) == before + 1);
}

static void a_run_is_resumed_twice_at_once(void) {
  repeat_step(rounds < 1000 ? rounds : 1000, "", suspends_once, &resumed, run_resumed_twice);
}

/* --- A reader that goes away ---------------------------------------------------------------------------------------- */

static void run_abandoned(void) {
  lomusai_run *run = NULL;
  char *event = NULL;
  OK(lomusai_run_start(engine, LIT(REQUEST), NULL, &run, ERR));
  if (lomusai_run_next(run, 5000, &event, ERR) == LOMUSAI_OK) lomusai_string_free(event);
  lomusai_run_free(run);
}

static void frees_the_run_unread(void) { repeat("[{\"says\":\"a b c d e f\"}]", NULL, NULL, NULL, run_abandoned); }

static const struct {
  const char *name;
  void (*body)(void);
} cases[] = {
    {"answers_twice", answers_twice},
    {"drops_unanswered", drops_unanswered},
    {"answers_invalid_json", answers_invalid_json},
    {"answers_invalid_utf8_and_nul", answers_invalid_utf8_and_nul},
    {"rejects_with_nul_bytes", rejects_with_nul_bytes},
    {"never_answers", never_answers},
    {"answers_after_cancel", answers_after_cancel},
    {"answers_after_close", answers_after_close},
    {"answers_64_mib", answers_64_mib},
    {"calls_back_a_thousand_deep", calls_back_a_thousand_deep},
    {"unregisters_itself", unregisters_itself},
    {"closes_in_a_callback", closes_in_a_callback},
    {"frees_the_run_in_its_callback", frees_the_run_in_its_callback},
    {"frees_the_run_unread", frees_the_run_unread},
    {"exits_in_mid_run", exits_in_mid_run},
    {"a_forked_child_uses_the_engine", a_forked_child_uses_the_engine},
    {"null_everywhere", null_everywhere},
    {"a_step_answers_twice", a_step_answers_twice},
    {"a_step_drops_unanswered", a_step_drops_unanswered},
    {"a_step_answers_invalid_json", a_step_answers_invalid_json},
    {"a_step_fails_for_good", a_step_fails_for_good},
    {"a_step_never_answers", a_step_never_answers},
    {"a_step_answers_after_cancel", a_step_answers_after_cancel},
    {"a_step_answers_100_mb", a_step_answers_100_mb},
    {"a_run_is_resumed_twice_at_once", a_run_is_resumed_twice_at_once},
};

int main(int argc, char **argv) {
  if (getenv("LOMUSAI_ROUNDS") != NULL) rounds = atoi(getenv("LOMUSAI_ROUNDS"));
  if (argc == 4 && strcmp(argv[1], "--soak") == 0) {
    soaks = true;
    rounds = atoi(argv[3]);
    argv += 1;
    argc = 2;
  }
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    bool wanted = argc < 2;
    for (int a = 1; a < argc; a++) wanted |= strcmp(argv[a], cases[i].name) == 0;
    if (wanted) test(cases[i].name, cases[i].body);
  }
  return tests_end();
}
