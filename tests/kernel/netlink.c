/* Carries generic netlink messages for a test that runs outside: a request a line in, its answer a line out, both
 * in hexadecimal. It knows nothing of WireGuard. */
#include <linux/netlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static char line[1 << 18];
static unsigned char data[1 << 17];

int main(void)
{
    int sock = socket(AF_NETLINK, SOCK_RAW, NETLINK_GENERIC);
    if (sock < 0)
        return 1;
    while (fgets(line, sizeof line, stdin)) {
        size_t size = 0;
        unsigned byte;
        for (char *at = line; sscanf(at, "%2x", &byte) == 1; at += 2)
            data[size++] = byte;
        if (send(sock, data, size, 0) < 0)
            return 2;
        for (int last = 0; !last;) {
            ssize_t got = recv(sock, data, sizeof data, 0);
            if (got <= 0)
                return 3;
            for (ssize_t at = 0; at < got; at++)
                printf("%02x", data[at]);
            for (ssize_t at = 0; at + (ssize_t)sizeof(struct nlmsghdr) <= got;) {
                struct nlmsghdr head;
                memcpy(&head, data + at, sizeof head);
                if (head.nlmsg_type == NLMSG_DONE || head.nlmsg_type == NLMSG_ERROR)
                    last = 1;
                at += NLMSG_ALIGN(head.nlmsg_len) ? NLMSG_ALIGN(head.nlmsg_len) : 16;
            }
        }
        putchar('\n');
    }
    return 0;
}
