#!/bin/bash
# Creates the topics that apps/flights declares, and those of its retries and dead letters, if they are missing:
# create-topics.sh HOST:PORT
# BIN is where the tools of Kafka lie.
set -eu
brokers=$1
bin=${BIN:-/opt/kafka/bin}

create() {
    topic=$1 partitions=$2
    shift 2
    "$bin/kafka-topics.sh" --bootstrap-server "$brokers" --create --if-not-exists \
        --topic "$topic" --partitions "$partitions" --replication-factor 1 "$@"
}

# For copies of records: they are kept for 30 days from when they are written, and carry more headers than the records.
create_for_copies() {
    create "$1" "$2" --config cleanup.policy=delete --config retention.ms=2592000000 \
        --config max.message.bytes=1114124 --config message.timestamp.type=LogAppendTime
}

create nyc.flights.v1 6
create nyc.turns.v1 3
create nyc.delays.v1 3
create nyc.cancellations.v1 3
create nyc.gates.v1 3
create nyc.weather.v1 3

create_for_copies nyc.flights.v1.dlq 6
create_for_copies nyc.flights.v1.flights.weather.retry-1 6
create_for_copies nyc.flights.v1.flights.weather.retry-2 6
create_for_copies nyc.flights.v1.flights.weather.retry-3 6
