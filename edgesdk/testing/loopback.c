/* For a server that listens on every address and lets anyone in: it listens on 127.0.0.1 instead.
 *
 * To be preloaded. Sockets of IPv6 take IPv4 connections as well, so their loopback address is that of
 * IPv4, mapped. Sockets to other virtual machines (vsock) have no such address and are refused.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

int bind(int fd, const struct sockaddr *address, socklen_t size)
{
    static const unsigned char loopback[16] = {[10] = 0xff, 0xff, 127, 0, 0, 1};
    struct sockaddr_in6 here;

    if (address->sa_family == AF_VSOCK) {
        errno = EADDRNOTAVAIL;
        return -1;
    }
    if (address->sa_family == AF_INET) {
        struct sockaddr_in there;
        memcpy(&there, address, sizeof there);
        there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        return syscall(SYS_bind, fd, &there, sizeof there);
    }
    if (address->sa_family == AF_INET6) {
        memcpy(&here, address, sizeof here);
        memcpy(&here.sin6_addr, loopback, sizeof loopback);
        return syscall(SYS_bind, fd, &here, sizeof here);
    }
    return syscall(SYS_bind, fd, address, size);
}
