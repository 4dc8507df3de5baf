/* What a call into C costs: the tool's callback on the thread that drives the run, and on the host pool. */
#include <lomusai.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { CALLS = 200, RUNS = 100, LOOPS = 10000000 };

/* CPU time of the process, user and system, in microseconds. */
static double cpu_us(void) {
  struct timespec now;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
  return (double)now.tv_sec * 1e6 + (double)now.tv_nsec / 1e3;
}

static void check(lomusai_status status, lomusai_error *err) {
  if (status == LOMUSAI_OK) return;
  fprintf(stderr, "%s: %s\n", lomusai_error_code(err), lomusai_error_message(err));
  exit(1);
}

static void print_case(const char *name, long calls, double us) {
  printf("{\"case\": \"%s\", \"calls\": %ld, \"cpu_us_per_call\": %.4f}\n", name, calls, us / (double)calls);
}

/* From the first call to the last one: what a run costs at its start and end is not the crossing's. */
struct watch {
  int seen;
  double began, spent;
};

static void add(void *userdata, lomusai_str input, lomusai_answer *answer) {
  struct watch *watch = userdata;
  (void)input;
  if (watch->seen == 0) watch->began = cpu_us();
  if (++watch->seen == CALLS) watch->spent += cpu_us() - watch->began;
  lomusai_answer_resolve(answer, "3", 1, NULL);
  lomusai_answer_free(answer);
}

static char *script(void) {
  static const char call[] = "{\"name\": \"add\", \"arguments\": {\"x\": 1, \"y\": 2}}";
  char *text = malloc(CALLS * (sizeof call + 1) + 200);
  if (text == NULL) exit(1);
  strcpy(text, "{\"type\": \"scripted\", \"script\": [{\"calls\": [");
  char *end = text + strlen(text);
  for (int i = 0; i < CALLS; i++) end += sprintf(end, i ? ",%s" : "%s", call);
  strcpy(end, "]}, {\"says\": \"done\"}]}");
  return text;
}

static void measure(const char *name, uint32_t flags) {
  static const char spec[] =
      "{\"name\": \"add\", \"description\": \"\", \"input_schema\": {\"type\": \"object\", \"properties\": {\"x\": {\"type\": "
      "\"integer\"}, \"y\": {\"type\": \"integer\"}}, \"required\": [\"x\", \"y\"], \"additionalProperties\": false}}";
  static const char agent[] = "{\"name\": \"adder\", \"model\": \"model\", \"tools\": [\"add\"], \"tool_concurrency\": 1}";
  static const char request[] = "{\"agent\": \"adder\", \"input\": \"go\"}";
  struct watch watch = {0, 0, 0};
  lomusai_engine *engine = NULL;
  lomusai_error *err = NULL;
  char *provider = script();
  check(lomusai_engine_open(NULL, &engine, &err), err);
  check(lomusai_register_builtin_provider(engine, "model", provider, strlen(provider), &err), err);
  check(lomusai_register_tool(engine, spec, strlen(spec), flags, add, &watch, NULL, &err), err);
  check(lomusai_register_agent(engine, agent, strlen(agent), &err), err);
  /* The first run warms up. */
  for (int i = 0; i <= RUNS; i++) {
    lomusai_run *run = NULL;
    if (i == 1) watch.spent = 0;
    watch.seen = 0;
    check(lomusai_run_start(engine, request, strlen(request), NULL, &run, &err), err);
    lomusai_run_discard_events(run);
    check(lomusai_run_result(run, LOMUSAI_FOREVER, NULL, &err), err);
    lomusai_run_free(run);
    if (watch.seen != CALLS) {
      fprintf(stderr, "%s: %d calls\n", name, watch.seen);
      exit(1);
    }
  }
  print_case(name, (long)RUNS * (CALLS - 1), watch.spent);
  check(lomusai_engine_close(engine, LOMUSAI_FOREVER, &err), err);
  lomusai_engine_free(engine);
  free(provider);
}

static int sum(int x, int y) { return x + y; }

int main(void) {
  /* Volatile, so that the compiler leaves the calls in. */
  int (*volatile callee)(int, int) = sum;
  volatile int result = 0;
  double began = cpu_us();
  for (int i = 0; i < LOOPS; i++) result = callee(i & 1, 2);
  print_case("C: plain loop", LOOPS, cpu_us() - began);
  (void)result;
  measure("C: inline", LOMUSAI_INLINE);
  measure("C: pooled", LOMUSAI_POOL);
  return 0;
}
