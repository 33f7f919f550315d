# make demo and make test set themselves up: an environment of their own in .venv, then the work.
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint clean

demo:
	@sh scripts/setup.sh
	@$(BIN)/python scripts/demo_clip.py demo/walk.mp4
	$(BIN)/ropetp capture demo/walk.mp4 -o demo/walk --force
	$(BIN)/ropetp capture examples/rendered_walk.mp4 -o demo/rendered_walk --force
	$(BIN)/ropetp evaluate motion demo/rendered_walk examples/rendered_walk_truth.npz

test:
	@sh scripts/setup.sh test
	$(BIN)/python -m pytest

lint:
	@sh scripts/setup.sh test
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

clean:
	rm -rf $(VENV) demo
