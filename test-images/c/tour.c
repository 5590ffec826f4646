// Prints a greeting, the arguments and the environment, then does what its words ask for: see README.md.
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

extern char **environ;

static int read_file(const char *path) {
    char part[4096];
    size_t length;
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    while ((length = fread(part, 1, sizeof part, file)) > 0)
        fwrite(part, 1, length, stdout);
    int failed = ferror(file);
    fclose(file);
    return failed ? -1 : 0;
}

static int write_file(const char *path, const char *text) {
    FILE *file = fopen(path, "w");
    if (!file)
        return -1;
    int failed = fputs(text, file) < 0;
    return fclose(file) || failed ? -1 : 0;
}

static int visible(const struct dirent *entry) {
    return strcmp(entry->d_name, ".") && strcmp(entry->d_name, "..");
}

static int list_folder(const char *path) {
    struct dirent **entries;
    int count = scandir(path, &entries, visible, alphasort);
    for (int i = 0; i < count; i++)
        printf("entry %s\n", entries[i]->d_name);
    return count < 0 ? -1 : 0;
}

int main(int argc, char **argv) {
    puts("hello from C");
    for (int i = 0; i < argc; i++)
        printf("arg %s\n", argv[i]);
    for (char **pair = environ; *pair; pair++)
        printf("env %s\n", *pair);
    for (char **word = argv + 1; word < argv + argc;) {
        const char *verb = *word++;
        const char *subject = word < argv + argc ? *word++ : "";
        int result = -1;
        errno = EINVAL;
        if (!strcmp(verb, "read"))
            result = read_file(subject);
        else if (!strcmp(verb, "list"))
            result = list_folder(subject);
        else if (!strcmp(verb, "write"))
            result = write_file(subject, word < argv + argc ? *word++ : "");
        else if (!strcmp(verb, "exit"))
            return atoi(subject);
        if (result) {
            fflush(stdout);
            fprintf(stderr, "%s %s: %s\n", verb, subject, strerror(errno));
            return 1;
        }
    }
    return 0;
}
