# Conclave: `make demo` trains a small model on this machine, `make test` proves the program. Both install what is missing.
SHELL := bash
.PHONY: help demo test build debug asan bench format check print-binary clean

help:
	@echo 'make demo          builds, fetches text, trains a small model and samples from it'
	@echo 'make test          builds and runs every test'
	@echo 'make build         the release program: $(CURDIR)/build/release/conclave'
	@echo 'make debug         the same without optimisation, in build/debug; make asan: with sanitizers, tests included'
	@echo 'make bench         builds and runs the programs in bench/ (ONLY=name for one)'
	@echo 'make format        rewrites the source in the house format; make check: rooms, sizes and format'
	@echo 'make print-binary  prints the path of the release program (make -s print-binary)'
	@echo 'make clean         deletes build/ (.venv, .cache and runs stay)'

demo:
	@tools/demo.sh

test:
	@tools/test.sh

build:
	@tools/setup.sh
	@tools/build.sh release conclave

debug:
	@tools/setup.sh
	@tools/build.sh debug conclave

asan:
	@tools/setup.sh --tests
	@tools/build.sh asan
	@tools/ctest.sh asan -LE source

bench:
	@tools/bench.sh $(ONLY)

format:
	@tools/format.sh

check:
	@python3 tools/check_layers.py
	@tools/format.sh --check

print-binary:
	@echo $(CURDIR)/build/release/conclave

clean:
	rm -rf build
