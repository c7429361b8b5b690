// Exceptions through ten frames with destructors, rethrown, through a function
// pointer, in a thread.
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

static int destroyed;

struct Guard {
	int level;
	explicit Guard(int l) : level(l) {}
	~Guard() { destroyed += level; }
};

__attribute__((noinline)) static int down(int level)
{
	Guard g(level);
	if (level == 0)
		throw std::runtime_error("bottom");
	return down(level - 1) + level;
}

__attribute__((noinline)) static void rethrow()
{
	try {
		down(10);
	} catch (std::exception &e) {
		throw std::logic_error(std::string("again: ") + e.what());
	}
}

int main()
{
	try {
		down(10);
	} catch (std::runtime_error &e) {
		printf("caught %s, destroyed %d\n", e.what(), destroyed);
	}
	try {
		rethrow();
	} catch (std::logic_error &e) {
		printf("caught %s\n", e.what());
	}
	std::function<void(int)> f = [](int x) { throw x; };
	int sum = 0;
	for (int i = 0; i < 1000; i++) {
		try {
			f(i);
		} catch (int x) {
			sum += x;
		}
	}
	printf("sum %d\n", sum);
	std::thread t([] {
		try {
			std::vector<int>().at(3);
		} catch (std::out_of_range &) {
			printf("out of range in a thread\n");
		}
	});
	t.join();
	std::map<std::string, std::unique_ptr<int>> m;
	for (int i = 0; i < 1000; i++)
		m[std::to_string(i)] = std::make_unique<int>(i);
	printf("map %zu\n", m.size());
	return 0;
}
