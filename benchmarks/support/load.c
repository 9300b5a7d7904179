/* Clients that ask for a runtime env that is ready, again and again, each time on a new connection.
 *
 * load HOST PORT CLIENTS REQUESTS WARM, the whole HTTP request on stdin. So many requests are under way at any
 * time: first WARM of them that do not count, then REQUESTS that do. Prints JSON: requests per second, the
 * seconds of processor time that this process used meanwhile, and what each request took in microseconds, from
 * before connect() to the last byte of its answer. Exits with 1, and says why, if an answer is not 200 or a
 * connection ends early. One thread: where the agent has a core and its clients another, the agent is measured.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netdb.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST = 1 << 16, EVENTS = 64 };

struct ask {
	int connection;
	long began; /* nanoseconds */
	size_t have;
	char answer[MOST + 1];
};

static struct addrinfo *address;
static char request[1 << 20];
static size_t length;
static int poller;

static void fail(const char *what, ...)
{
	va_list arguments;
	va_start(arguments, what);
	vfprintf(stderr, what, arguments);
	va_end(arguments);
	fputc('\n', stderr);
	exit(1);
}

static long now(void)
{
	struct timespec time;
	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000L + time.tv_nsec;
}

static double processor(void)
{
	struct rusage used;
	getrusage(RUSAGE_SELF, &used);
	return used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6;
}

/* Connects and sends. On loopback neither waits for the other side's program. */
static void start(struct ask *ask)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = ask};
	struct linger at_once = {.l_onoff = 1};
	ask->began = now();
	ask->have = 0;
	ask->connection = socket(address->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (ask->connection < 0 || connect(ask->connection, address->ai_addr, address->ai_addrlen))
		fail("connect: %s", strerror(errno));
	/* The port is free again at the end: thousands that wait for a minute would be looked through, and run out. */
	setsockopt(ask->connection, SOL_SOCKET, SO_LINGER, &at_once, sizeof at_once);
	if (send(ask->connection, request, length, MSG_NOSIGNAL) != (ssize_t)length)
		fail("send: %s", strerror(errno));
	if (epoll_ctl(poller, EPOLL_CTL_ADD, ask->connection, &event))
		fail("epoll_ctl: %s", strerror(errno));
}

/* Reads what has come; whether that was the end of the answer. */
static int answered(struct ask *ask)
{
	ssize_t part = recv(ask->connection, ask->answer + ask->have, MOST - ask->have, 0);
	if (part <= 0)
		fail("the agent hung up: %s", part ? strerror(errno) : "no whole answer");
	ask->have += part;
	ask->answer[ask->have] = 0;
	char *end = strstr(ask->answer, "\r\n\r\n"), *size;
	if (!end)
		return 0;
	if (strncmp(ask->answer + strcspn(ask->answer, " "), " 200", 4))
		fail("refused: %.*s", (int)(end - ask->answer), ask->answer);
	*end = 0;
	size = strcasestr(ask->answer, "\r\ncontent-length:");
	if (!size)
		fail("an answer without a length");
	*end = '\r';
	return ask->have - (end + 4 - ask->answer) >= strtoul(size + 17, NULL, 10);
}

/* Answers so many requests, and begins so many in all that the given number is under way until the end. */
static void load(struct ask *asks, int clients, long requests, long *took)
{
	struct epoll_event events[EVENTS];
	long done = 0, begun = 0;
	for (; begun < clients && begun < requests; begun++)
		start(&asks[begun]);
	while (done < requests) {
		int ready = epoll_wait(poller, events, EVENTS, 60000);
		if (ready <= 0)
			fail("no answer: %s", ready ? strerror(errno) : "within a minute");
		for (int each = 0; each < ready; each++) {
			struct ask *ask = events[each].data.ptr;
			if (!answered(ask))
				continue;
			took[done++] = now() - ask->began;
			close(ask->connection);
			if (begun++ < requests)
				start(ask);
		}
	}
}

int main(int count, char **words)
{
	struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST};
	if (count != 6 || getaddrinfo(words[1], words[2], &hints, &address))
		fail("load HOST PORT CLIENTS REQUESTS WARM");
	long clients = atol(words[3]), requests = atol(words[4]), warm = atol(words[5]);
	length = fread(request, 1, sizeof request, stdin);
	struct ask *asks = calloc(clients, sizeof *asks);
	long *took = calloc(requests > warm ? requests : warm, sizeof *took);
	poller = epoll_create1(EPOLL_CLOEXEC);
	if (!length || !asks || !took || poller < 0)
		fail("no request, or no memory");
	load(asks, clients, warm, took);
	double used = processor();
	long began = now();
	load(asks, clients, requests, took);
	double seconds = (now() - began) / 1e9;
	printf("{\"rate\": %.1f, \"processor\": %.6f, \"took\": [", requests / seconds, processor() - used);
	for (long each = 0; each < requests; each++)
		printf("%s%.1f", each ? ", " : "", took[each] / 1e3);
	puts("]}");
	return 0;
}
