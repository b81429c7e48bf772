# The commands a user types. Everything else is in the modules they call.
.PHONY: demo test lint lab down clean set-up bench generate parity

PYTHON := .venv/bin/python
empty :=
space := $(empty) $(empty)

# What is pure, and therefore has no excuse for an untested branch.
DECIDERS_AND_CODECS := config/*,controller/world.py,controller/plan.py,controller/outbox.py,controller/pacing.py,controller/ipam/*,kube/retry.py,\
speaker/bfd/packet.py,speaker/bfd/session.py,speaker/bfd/hub.py,speaker/bgp/model.py,speaker/bgp/sessions.py,speaker/bgp/exabgp_api.py,speaker/bgp/exabgp_config.py,speaker/bgp/neighbors.py,speaker/bgp/routes.py,\
speaker/world.py,speaker/reason.py,speaker/eligibility.py,speaker/election.py,speaker/balance.py,speaker/plan.py,speaker/joining.py,speaker/isolation.py,speaker/handover.py,speaker/claims.py,speaker/peers.py,speaker/agenda.py,\
speaker/layer2/arp.py,speaker/layer2/ndp.py,speaker/layer2/bpf.py,speaker/layer2/responder.py,speaker/layer2/interfaces.py,\
memberlist/awareness.py,memberlist/broadcast.py,memberlist/config.py,memberlist/core.py,memberlist/effects.py,\
memberlist/exchange.py,memberlist/keyring.py,memberlist/lzw.py,memberlist/members.py,memberlist/messages.py,memberlist/outbox.py,\
memberlist/isolation.py,memberlist/judge.py,memberlist/lag.py,memberlist/limits.py,memberlist/loss.py,memberlist/marker.py,\
memberlist/measures.py,memberlist/pace.py,memberlist/profiles.py,memberlist/rtt.py,memberlist/watch.py,kube/lease.py,\
lab/dataplane.py,lab/deployments.py,lab/endpoints.py,lab/ruleset.py,lab/workloads.py,lab/ingress/nginx.py,lab/ingress/routing.py,lab/ingress/settings.py,\
lab/chaos/plan.py,lab/chaos/verdicts.py,lab/faults.py,lab/frames.py,lab/moves.py,lab/picture.py,lab/timeline.py,memberlist/packet.py,memberlist/probe.py,memberlist/push_pull.py,memberlist/streams.py,memberlist/suspicion.py,memberlist/wire.py

set-up:
	@sh tools/set-up.sh

demo: set-up  ## the main job in the lab, from nothing to failover; KEEP=1 leaves the lab up
	@$(PYTHON) -m lab demo $(if $(KEEP),--keep)

lab: set-up  ## bring the lab up and leave it up
	@$(PYTHON) -m lab up

down: set-up
	@$(PYTHON) -m lab down

test: set-up lint  ## every test
	@$(PYTHON) -m coverage run -m pytest tests/house tests/unit
	@$(PYTHON) -m coverage report --include="$(subst $(space),,$(DECIDERS_AND_CODECS))" --skip-covered --fail-under=95
	@$(PYTHON) -m pytest tests/integration tests/properties tests/simulation tests/fuzz
	@$(PYTHON) -m pytest tests/recorded tests/interop tests/e2e

lint: set-up
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy
	@.venv/bin/lint-imports

bench: set-up  ## timings, for a quiet machine
	@$(PYTHON) -m bench.apiserver
	@$(PYTHON) -m bench.controller
	@$(PYTHON) -m bench.memberlist
	@$(PYTHON) -m bench.layer2 --lab 5
	@$(PYTHON) -m bench.bfd
	@$(PYTHON) -m bench.lab_ingress

generate: set-up  ## rewrite what is generated from the sources: CRDs
	@$(PYTHON) -m cli generate

parity: set-up  ## run the tests that have a title of MetalLB's tests, and write docs/reference/metallb-parity.md
	@$(PYTHON) -m pytest -m parity --parity tests

clean:
	@if [ -x $(PYTHON) ]; then $(PYTHON) -m lab down || true; fi
	rm -rf .venv .lab build *.egg-info .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis .coverage*
