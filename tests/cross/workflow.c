/* A workflow that waits three times, in C. See tests/cross/README.md. */
#include <lomusai.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* As builders make it in other languages. */
static const char SPEC[] =
    "{\"name\": \"handover\", \"steps\": ["
    " {\"id\": \"check\", \"run\": {\"step\": \"check\"}},"
    " {\"id\": \"boss\", \"after\": [\"check\"], \"run\": {\"suspend\": {\"label\": \"boss\", \"payload\": {\"object\": {\"sum\": {\"from\": \"steps.check.n\"}}}}}},"
    " {\"id\": \"yes\", \"after\": [\"boss\"], \"when\": {\"expr\": \"steps.boss.ok\"}, \"run\": {\"step\": \"yes\"}},"
    " {\"id\": \"many\", \"after\": [\"boss\"], \"when\": {\"function\": \"handover.many.when\"}, \"run\": {\"step\": \"many\"}},"
    " {\"id\": \"paid\", \"after\": [\"yes\", \"many\"], \"needs\": \"none\", \"run\": {\"wait\": {\"signal\": \"paid\"}}},"
    " {\"id\": \"price\", \"after\": [\"paid\"], \"input\": {\"from\": \"steps.check.items\"},"
    "  \"run\": {\"foreach\": {\"steps\": [{\"id\": \"price_item\", \"run\": {\"step\": \"price\"}}], \"concurrency\": 2}}},"
    " {\"id\": \"clerk\", \"after\": [\"price\"], \"run\": {\"suspend\": {\"label\": \"clerk\"}}},"
    " {\"id\": \"total\", \"after\": [\"clerk\"], \"run\": {\"step\": \"total\"},"
    "  \"input\": {\"object\": {\"prices\": {\"from\": \"steps.price\"}, \"paid\": {\"from\": \"steps.paid.sum\"}}}}"
    "]}";

static lomusai_error *err;

static void check(lomusai_status status) {
  if (status == LOMUSAI_OK) return;
  fprintf(stderr, "%s [%s]\n", lomusai_error_message(err), lomusai_error_code(err));
  exit(1);
}

/* All functions: which one is called is its userdata. */
static void call(void *userdata, lomusai_str input, lomusai_answer *answer) {
  const char *name = userdata;
  char text[256], reply[64] = "null";
  int paid, a, b, c;
  snprintf(text, sizeof text, "%.*s", (int)input.len, input.ptr);
  if (strcmp(name, "check") == 0 && sscanf(text, "{\"n\":%d}", &a) == 1) snprintf(reply, sizeof reply, "{\"n\":%d,\"items\":[1,2,3]}", a * 2);
  if (strcmp(name, "yes") == 0 || strcmp(name, "many") == 0) snprintf(reply, sizeof reply, "\"%s\"", name);
  if (strcmp(name, "handover.many.when") == 0) snprintf(reply, sizeof reply, "%s", strstr(text, "\"ok\":true") ? "true" : "false");
  if (strcmp(name, "price") == 0) snprintf(reply, sizeof reply, "%d", atoi(text) * 10);
  if (strcmp(name, "total") == 0 && sscanf(text, "{\"paid\":%d,\"prices\":[%d,%d,%d]}", &paid, &a, &b, &c) == 4)
    snprintf(reply, sizeof reply, "{\"total\":%d}", a + b + c + paid);
  lomusai_answer_resolve(answer, reply, strlen(reply), NULL);
  lomusai_answer_free(answer);
}

/* Killed here, until it is called for the fourth time. */
static void toil(void *userdata, lomusai_str input, lomusai_answer *answer) {
  char *facts = NULL;
  (void)userdata, (void)input;
  check(lomusai_answer_facts(answer, &facts, &err));
  if (strstr(facts, "\"attempt\":4") == NULL) {
    printf("status working\n");
    fflush(stdout);
    sleep(600);
  }
  lomusai_string_free(facts);
  lomusai_answer_resolve(answer, "4", 1, NULL);
  lomusai_answer_free(answer);
}

/* Begins the work, or goes on with it once nobody else holds it. */
static void work(lomusai_engine *engine, int stage) {
  static const char SPEC_OF_WORK[] = "{\"name\": \"toil\", \"steps\": [{\"id\": \"toil\", \"run\": {\"step\": \"toil\"}}]}";
  static const char REQUEST[] = "{\"workflow\": \"toil\", \"run_id\": \"toil\", \"detached\": true}";
  static const char OF_RUN[] = "{\"run_id\": \"toil\"}";
  lomusai_run *run = NULL;
  char *json = NULL;
  check(lomusai_register_step(engine, "toil", LOMUSAI_POOL, toil, NULL, NULL, &err));
  check(lomusai_register_workflow(engine, SPEC_OF_WORK, strlen(SPEC_OF_WORK), &err));
  if (stage == 4) {
    check(lomusai_run_start(engine, REQUEST, strlen(REQUEST), NULL, &run, &err));
    lomusai_run_discard_events(run);
    check(lomusai_run_result(run, LOMUSAI_FOREVER, NULL, &err));
  }
  for (bool recovered = stage == 4; !recovered; usleep(50000)) {
    check(lomusai_engine_start(engine, &json, &err));
    recovered = strstr(json, "\"recovered\":[\"toil\"]") != NULL;
    lomusai_string_free(json);
  }
  check(lomusai_engine_call(engine, "result", OF_RUN, strlen(OF_RUN), &json, &err));
  printf("status %s\n", strstr(json, "\"status\":\"completed\"") ? "completed" : json);
  lomusai_string_free(json);
  check(lomusai_engine_digest(engine, "toil", &json, &err));
  printf("digest %s\n", json);
  lomusai_string_free(json);
}

/* Waits for what the run came to, and lets go of it. */
static char *ended(lomusai_run *run) {
  char *json = NULL;
  lomusai_run_discard_events(run);
  check(lomusai_run_result(run, LOMUSAI_FOREVER, &json, &err));
  lomusai_run_free(run);
  return json;
}

/* What the run waits for at this stage. */
static char *tell(lomusai_engine *engine, int stage) {
  static const char *const commands[] = {
      "{\"workflow\": \"handover\", \"input\": {\"n\": 3}, \"run_id\": \"handover\"}",
      "{\"type\": \"resume\", \"label\": \"boss\", \"data\": {\"ok\": true}}",
      "{\"type\": \"signal\", \"name\": \"paid\", \"data\": {\"sum\": 5}}",
      "{\"type\": \"resume\", \"label\": \"clerk\"}",
  };
  const char *text = commands[stage];
  lomusai_run *run = NULL;
  if (stage == 0)
    check(lomusai_run_start(engine, text, strlen(text), NULL, &run, &err));
  else
    check(lomusai_run_resume(engine, "handover", text, strlen(text), NULL, &run, &err));
  return ended(run);
}

int main(int argc, char **argv) {
  static const char *const steps[] = {"check", "yes", "many", "price", "total"};
  static char predicate[] = "handover.many.when";
  lomusai_engine_options options;
  lomusai_engine *engine = NULL;
  char *json = NULL;
  int stage = 0;

  memset(&options, 0, sizeof options);
  options.struct_size = sizeof options;
  options.path = argc > 2 ? argv[1] : NULL;
  options.config_json = "{\"lease_ms\": 500}";
  check(lomusai_engine_open(&options, &engine, &err));
  for (size_t i = 0; i < sizeof steps / sizeof *steps; i++)
    check(lomusai_register_step(engine, steps[i], LOMUSAI_POOL, call, (void *)(size_t)steps[i], NULL, &err));
  check(lomusai_register_function(engine, predicate, LOMUSAI_POOL, call, predicate, NULL, &err));
  check(lomusai_register_workflow(engine, SPEC, strlen(SPEC), &err));
  if (argc > 2 && atoi(argv[2]) > 3) {
    work(engine, atoi(argv[2]));
    return 0;
  }
  for (int i = 2; i < argc; i++) {
    lomusai_string_free(json);
    stage = atoi(argv[i]) & 3;
    json = tell(engine, stage);
    const char *status = strstr(json, "\"status\":\"");
    printf("status %.*s\n", status ? (int)strcspn(status + 10, "\"") : 0, status ? status + 10 : "");
    fflush(stdout);
  }
  /* Killed here. */
  if (stage != 3) sleep(600);
  const char *total = json ? strstr(json, "\"total\":") : NULL;
  printf("total %d\n", total ? atoi(total + 8) : -1);
  lomusai_string_free(json);
  check(lomusai_engine_digest(engine, "handover", &json, &err));
  printf("digest %s\n", json);
  lomusai_string_free(json);
  check(lomusai_engine_close(engine, LOMUSAI_FOREVER, &err));
  lomusai_engine_free(engine);
  return 0;
}
