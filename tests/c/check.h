/* What the test programs share: checks that count, tests by name, and a line of numbers at the end. */
#ifndef LOMUSAI_TESTS_CHECK_H
#define LOMUSAI_TESTS_CHECK_H

#include <lomusai.h>

#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static atomic_int checks_failed;
static int tests_passed, tests_failed;

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      atomic_fetch_add(&checks_failed, 1);                                                \
      printf("  %s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                    \
    }                                                                                     \
  } while (0)

/* Without which a test cannot go on. */
#define MUST(condition)                                                                   \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      printf("  %s:%d: not so: %s\n", __FILE__, __LINE__, #condition);                    \
      fflush(stdout);                                                                     \
      _Exit(1);                                                                           \
    }                                                                                     \
  } while (0)

#define OK(call) check_ok((call), &check_error, #call, __FILE__, __LINE__)
#define ERR (&check_error)

static _Thread_local lomusai_error *check_error;

static inline void check_ok(lomusai_status status, lomusai_error **error, const char *call, const char *file, int line) {
  if (status != LOMUSAI_OK) {
    atomic_fetch_add(&checks_failed, 1);
    printf("  %s:%d: %s: status %u %s: %s\n", file, line, call, status, lomusai_error_code(*error), lomusai_error_message(*error));
  }
  lomusai_error_free(*error);
  *error = NULL;
}

/* The call failed with this code. */
#define FAILS(expected, call) check_fails((call), &check_error, (expected), #call, __FILE__, __LINE__)

static inline void check_fails(lomusai_status status, lomusai_error **error, const char *code, const char *call, const char *file,
                               int line) {
  if (strcmp(lomusai_error_code(*error), code) != 0 || status != lomusai_error_status(*error)) {
    atomic_fetch_add(&checks_failed, 1);
    printf("  %s:%d: %s: expected %s, was status %u %s: %s\n", file, line, call, code, status, lomusai_error_code(*error),
           lomusai_error_message(*error));
  }
  lomusai_error_free(*error);
  *error = NULL;
}

#define TEST(name) test(#name, name)

static inline void test(const char *name, void (*body)(void)) {
  atomic_store(&checks_failed, 0);
  body();
  if (atomic_load(&checks_failed) == 0) {
    tests_passed++;
    printf("ok %s\n", name);
  } else {
    tests_failed++;
    printf("FAILED %s\n", name);
  }
  fflush(stdout);
}

static inline int tests_end(void) {
  printf("%d passed, %d failed\n", tests_passed, tests_failed);
  return tests_failed == 0 && tests_passed > 0 ? 0 : 1;
}

static inline bool contains(const char *text, const char *part) { return text != NULL && strstr(text, part) != NULL; }

static inline void sleep_ms(long ms) {
  struct timespec t = {ms / 1000, (ms % 1000) * 1000000L};
  nanosleep(&t, NULL);
}

/* Waits until a counter is at least so high, at most 20 seconds. */
static inline bool reaches(atomic_int *counter, int value) {
  for (int i = 0; i < 20000; i++) {
    if (atomic_load(counter) >= value) return true;
    sleep_ms(1);
  }
  return false;
}

/* A literal as pointer and length. */
#define LIT(text) (text), (sizeof(text) - 1)
#define TEXT(text) (text), strlen(text)

/* How often a drop function was called. */
static atomic_int drops;
static inline void count_drop(void *userdata) {
  (void)userdata;
  atomic_fetch_add(&drops, 1);
}

static inline lomusai_engine *open_engine(void) {
  lomusai_engine *engine = NULL;
  OK(lomusai_engine_open(NULL, &engine, ERR));
  MUST(engine != NULL);
  return engine;
}

static inline void close_engine(lomusai_engine *engine) {
  OK(lomusai_engine_close(engine, 10000, ERR));
  lomusai_engine_free(engine);
}

/* An agent `agent` whose model answers by this script. */
static inline void scripted_agent(lomusai_engine *engine, const char *tools, const char *script) {
  char text[4096];
  snprintf(text, sizeof text, "{\"type\":\"scripted\",\"script\":%s}", script);
  OK(lomusai_register_builtin_provider(engine, "model", TEXT(text), ERR));
  snprintf(text, sizeof text, "{\"name\":\"agent\",\"model\":\"model\",\"tools\":%s}", tools);
  OK(lomusai_register_agent(engine, TEXT(text), ERR));
}

/* Runs the agent to its end; the result is the caller's. */
static inline char *run_agent(lomusai_engine *engine, const char *request) {
  lomusai_run *run = NULL;
  char *result = NULL;
  lomusai_status status = lomusai_run_start(engine, TEXT(request), NULL, &run, ERR);
  OK(status);
  if (run == NULL) return NULL;
  lomusai_run_discard_events(run);
  OK(lomusai_run_result(run, 60000, &result, ERR));
  lomusai_run_free(run);
  return result;
}

#define REQUEST "{\"agent\":\"agent\",\"input\":\"go\"}"

#endif
