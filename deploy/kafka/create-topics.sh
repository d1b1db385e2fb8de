#!/bin/bash
# Creates the topics that apps/flights declares, if they are missing: create-topics.sh HOST:PORT
# BIN is where the tools of Kafka lie.
set -eu
brokers=$1
bin=${BIN:-/opt/kafka/bin}

create() {
    "$bin/kafka-topics.sh" --bootstrap-server "$brokers" --create --if-not-exists \
        --topic "$1" --partitions "$2" --replication-factor 1
}

create nyc.flights.v1 6
create nyc.turns.v1 3
create nyc.delays.v1 3
create nyc.cancellations.v1 3
create nyc.gates.v1 3
