// Does one thing with a path, and says how it went: `files read PATH`, `write PATH TEXT`, `append PATH TEXT`,
// `list PATH`, `remove PATH`, `mkdir PATH`, `rename FROM TO`, `link FROM TO`, `symlink TEXT PATH`, `truncate PATH`.
// Ends with 0, or with 1 and the reason on the standard error. `files exit N` ends with N.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int failed(const char *what, const char *path) {
    fprintf(stderr, "%s %s: %s (errno %d)\n", what, path, strerror(errno), errno);
    return 1;
}

static int read_file(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file)
        return failed("read", path);
    char buffer[4096];
    size_t count;
    while ((count = fread(buffer, 1, sizeof buffer, file)) > 0)
        fwrite(buffer, 1, count, stdout);
    int broken = ferror(file);
    fclose(file);
    return broken ? failed("read", path) : 0;
}

static int write_file(const char *path, const char *text, const char *mode) {
    FILE *file = fopen(path, mode);
    if (!file)
        return failed("write", path);
    int broken = fputs(text, file) < 0;
    broken |= fclose(file) != 0;
    return broken ? failed("write", path) : 0;
}

static int compare(const void *left, const void *right) {
    return strcmp(*(char *const *)left, *(char *const *)right);
}

static int list(const char *path) {
    DIR *folder = opendir(path);
    if (!folder)
        return failed("list", path);
    char *names[1024];
    int count = 0;
    for (struct dirent *entry; count < 1024 && (entry = readdir(folder));)
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            names[count++] = strdup(entry->d_name);
    closedir(folder);
    qsort(names, count, sizeof *names, compare);
    for (int i = 0; i < count; i++)
        puts(names[i]);
    return 0;
}

static int truncate_file(const char *path) {
    int fd = open(path, O_RDONLY | O_TRUNC);
    if (fd < 0)
        return failed("truncate", path);
    close(fd);
    return 0;
}

int main(int argc, char **argv) {
    const char *verb = argc > 1 ? argv[1] : "";
    const char *path = argc > 2 ? argv[2] : "";
    const char *second = argc > 3 ? argv[3] : "";
    if (!strcmp(verb, "read"))
        return read_file(path);
    if (!strcmp(verb, "write"))
        return write_file(path, second, "w");
    if (!strcmp(verb, "append"))
        return write_file(path, second, "a");
    if (!strcmp(verb, "list"))
        return list(path);
    if (!strcmp(verb, "truncate"))
        return truncate_file(path);
    if (!strcmp(verb, "remove"))
        return remove(path) ? failed("remove", path) : 0;
    if (!strcmp(verb, "mkdir"))
        return mkdir(path, 0755) ? failed("mkdir", path) : 0;
    if (!strcmp(verb, "rename"))
        return rename(path, second) ? failed("rename", path) : 0;
    if (!strcmp(verb, "link"))
        return link(path, second) ? failed("link", path) : 0;
    if (!strcmp(verb, "symlink"))
        return symlink(path, second) ? failed("symlink", second) : 0;
    if (!strcmp(verb, "exit"))
        return atoi(path);
    fprintf(stderr, "no such verb: \"%s\"\n", verb);
    return 2;
}
