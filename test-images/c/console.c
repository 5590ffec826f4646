// Talks with a person: says whether each standard stream is a terminal, then answers every line it reads.
// `exit N` ends with N; anything else is repeated between brackets; the end of the input ends with 0.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int main(void) {
    printf("terminals: %d %d %d\n", isatty(0), isatty(1), isatty(2));
    fflush(stdout);
    char line[256];
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\r\n")] = 0;
        if (strncmp(line, "exit ", 5) == 0)
            return atoi(line + 5);
        printf("[%s]\n", line);
        fflush(stdout);
    }
    puts("end of input");
    return 0;
}
