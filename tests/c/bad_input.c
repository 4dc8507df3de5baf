/* Runs the table of bad input, tests/conformance/bad_input.json: the same codes in every language. */
#include "check.h"

#include <errno.h>
#include <jansson.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static lomusai_engine *engine;
static char code[128], message[1024];

static char *dump(json_t *value) { return value ? json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY) : strdup("{}"); }

static const char *field(json_t *step, const char *key) {
  const char *text = json_string_value(json_object_get(json_object_get(step, "args"), key));
  return text ? text : "";
}

static void answer_null(void *userdata, lomusai_str input, lomusai_answer *answer) {
  (void)userdata;
  (void)input;
  lomusai_answer_resolve(answer, LIT("null"), NULL);
  lomusai_answer_free(answer);
}

enum { NOBODY = 65534 };

/* The folder of the bad file; the program that holds it, if one does, and what ends that. */
static char folder[] = "/tmp/lomusai-bad-XXXXXX";
static pid_t holder = -1;
static int holder_input = -1;

static void hold(const char *path) {
  int in[2], out[2];
  char said[8] = {0};
  MUST(pipe(in) == 0 && pipe(out) == 0);
  holder = fork();
  if (holder == 0) {
    dup2(in[0], 0);
    dup2(out[1], 1);
    close(in[1]);
    close(out[0]);
    execlp("python3", "python3", "tests/conformance/hold_store.py", path, (char *)NULL);
    _exit(127);
  }
  close(in[0]);
  close(out[1]);
  holder_input = in[1];
  while (read(out[0], said, sizeof said - 1) < 0 && errno == EINTR) continue;
  CHECK(strcmp(said, "locked\n") == 0);
  close(out[0]);
}

/* What was done to the file beside writing it is undone. */
static void let_go(void) {
  if (geteuid() == NOBODY && getuid() == 0) CHECK(seteuid(0) == 0);
  chmod(folder, 0755);
  if (holder < 0) return;
  close(holder_input);
  waitpid(holder, NULL, 0);
  holder = -1;
}

static void remove_file(const char *path) {
  static const char *const suffixes[] = {"", "-wal", "-shm"};
  char name[300];
  for (int i = 0; i < 3; i++) {
    snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
    remove(name);
  }
}

/* Makes the bad file that the case asks for. */
static void make_file(const char *kind, const char *path) {
  remove_file(path);
  if (strcmp(kind, "corrupt") == 0) {
    FILE *file = fopen(path, "w");
    for (int i = 0; i < 1000; i++) fputs("This is not a database. ", file);
    fclose(file);
  } else {
    /* A good one; of a newer one the version (four bytes at 60) is put up. */
    lomusai_engine_options options = {0};
    lomusai_engine *made = NULL;
    options.struct_size = sizeof options;
    options.path = path;
    OK(lomusai_engine_open(&options, &made, ERR));
    close_engine(made);
    if (strcmp(kind, "newer") == 0) {
      FILE *file = fopen(path, "r+");
      fseek(file, 60, SEEK_SET);
      fwrite("\x7f\xff\xff\xff", 1, 4, file);
      fclose(file);
    } else if (strcmp(kind, "locked") == 0) {
      hold(path);
    } else {
      CHECK(strcmp(kind, "read_only") == 0 && chmod(path, 0444) == 0 && chmod(folder, 0555) == 0);
      if (geteuid() == 0) CHECK(seteuid(NOBODY) == 0);
    }
  }
}

static lomusai_status step(json_t *step, lomusai_error **err) {
  const char *does = json_string_value(json_object_get(step, "does"));
  json_t *text_field = json_object_get(step, "text"), *args = json_object_get(step, "args");
  char *text = text_field ? strdup(json_string_value(text_field)) : dump(args);
  size_t len = strlen(text);
  lomusai_status status = LOMUSAI_OK;
  if (strcmp(does, "open") == 0) {
    lomusai_engine_options options = {0};
    lomusai_engine *opened = NULL;
    char path[64];
    const char *kind = json_string_value(json_object_get(step, "file"));
    snprintf(path, sizeof path, "%s/store.db", folder);
    options.struct_size = sizeof options;
    options.config_json = text;
    if (kind) {
      make_file(kind, path);
      options.path = path;
    }
    status = lomusai_engine_open(&options, &opened, err);
    lomusai_engine_free(opened);
    let_go();
    remove_file(path);
  } else if (strcmp(does, "register_tool") == 0) {
    status = lomusai_register_tool(engine, text, len, 0, answer_null, NULL, NULL, err);
  } else if (strcmp(does, "register_function") == 0) {
    status = lomusai_register_function(engine, field(step, "name"), 0, answer_null, NULL, NULL, err);
  } else if (strcmp(does, "register_provider") == 0) {
    status = lomusai_register_provider(engine, field(step, "name"), 0, answer_null, NULL, NULL, err);
  } else if (strcmp(does, "register_builtin_provider") == 0) {
    char *config = dump(json_object_get(args, "config"));
    status = lomusai_register_builtin_provider(engine, field(step, "name"), config, strlen(config), err);
    free(config);
  } else if (strcmp(does, "register_agent") == 0) {
    status = lomusai_register_agent(engine, text, len, err);
  } else if (strcmp(does, "register_workflow") == 0) {
    status = lomusai_register_workflow(engine, text, len, err);
  } else if (strcmp(does, "register_step") == 0) {
    status = lomusai_register_step(engine, field(step, "name"), 0, answer_null, NULL, NULL, err);
  } else if (strcmp(does, "unregister") == 0) {
    status = lomusai_unregister(engine, field(step, "kind"), field(step, "name"), NULL, err);
  } else if (strcmp(does, "command") == 0) {
    char *command = dump(json_object_get(args, "command"));
    status = lomusai_engine_command(engine, field(step, "run_id"), command, strlen(command), err);
    free(command);
  } else if (strcmp(does, "call") == 0) {
    char *params = dump(json_object_get(args, "params"));
    status = lomusai_engine_call(engine, field(step, "operation"), params, strlen(params), NULL, err);
    free(params);
  } else if (strcmp(does, "close") == 0) {
    status = lomusai_engine_close(engine, 5000, err);
  } else if (strcmp(does, "run") == 0) {
    lomusai_run *run = NULL;
    char *result = NULL;
    status = lomusai_run_start(engine, text, len, NULL, &run, err);
    if (status == LOMUSAI_OK) {
      lomusai_run_discard_events(run);
      status = lomusai_run_result(run, 60000, &result, err);
      /* A run that failed has the error in its result. */
      json_t *value = result ? json_loads(result, 0, NULL) : NULL;
      json_t *error = json_object_get(value, "error");
      if (error) {
        snprintf(code, sizeof code, "%s", json_string_value(json_object_get(error, "code")));
        snprintf(message, sizeof message, "%s", json_string_value(json_object_get(error, "message")));
      }
      json_decref(value);
      lomusai_string_free(result);
      lomusai_run_free(run);
    }
  } else {
    printf("  unknown operation %s\n", does);
    status = LOMUSAI_E_INTERNAL;
  }
  free(text);
  return status;
}

int main(void) {
  json_error_t wrong;
  json_t *cases = json_load_file("tests/conformance/bad_input.json", 0, &wrong), *one, *before;
  size_t i, j;
  if (cases == NULL) {
    printf("bad_input.json:%d: %s\n", wrong.line, wrong.text);
    return 1;
  }
  MUST(mkdtemp(folder) != NULL);
  json_array_foreach(cases, i, one) {
    const char *expected = json_string_value(json_object_get(one, "code"));
    engine = open_engine();
    json_array_foreach(json_object_get(one, "first"), j, before) OK(step(before, ERR));
    code[0] = message[0] = 0;
    lomusai_error *error = NULL;
    if (step(one, &error) != LOMUSAI_OK) {
      snprintf(code, sizeof code, "%s", lomusai_error_code(error));
      snprintf(message, sizeof message, "%s", lomusai_error_message(error));
    }
    lomusai_error_free(error);
    bool good = strcmp(code, expected) == 0 && strlen(message) > 10;
    printf("%s %s: %s %s\n", good ? "ok" : "FAILED", json_string_value(json_object_get(one, "name")), code, good ? "" : message);
    if (good)
      tests_passed++;
    else
      tests_failed++;
    close_engine(engine);
  }
  json_decref(cases);
  rmdir(folder);
  return tests_end();
}
