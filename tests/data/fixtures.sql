-- The ground of the fixtures: extensions, schemas, roles, types. Loaded by psql, into PostgreSQL 14 to 18.
-- Followed by fixtures_types.sql, fixtures_tables.sql, fixtures_objects.sql, fixtures_workload.sql, in this order.

create extension hstore;
create extension ltree;
create extension citext;
create extension btree_gist;

create schema odd;
create schema "Größe.mit ""Zitat""";
create schema workload;

-- Roles belong to the cluster, and a cluster may hold the fixtures in several databases.
select not exists (select from pg_roles where rolname = 'fixture_reader') as needs_roles \gset
\if :needs_roles
  create role fixture_reader;
  create role "Fixture Owner";
\endif

create type odd.mood as enum ('sad', 'ok', 'happy', 'it''s "quoted", with {braces}', '');
create type odd."Größe" as enum ('klein', 'groß');
create domain odd.positive as integer check (value > 0);
create domain odd.named as text not null default 'nobody' constraint named_is_short check (length(value) < 100);
create domain odd.three as integer[] check (cardinality(value) <= 3);
create domain odd.postcode as odd.named check (value ~ '^[A-Z0-9 ]+$' or value = 'nobody');
create type odd.point3 as (x float8, y float8, z float8);
create type odd.line3 as (start odd.point3, stop odd.point3, label text, moods odd.mood[]);
create domain odd.unit_point as odd.point3 check ((value).x between 0 and 1);
create type odd.textrange as range (subtype = text, collation = "C");
create type odd.mood_holder as (mood odd.mood, at timestamptz);

create collation odd.german (provider = icu, locale = 'de-u-co-phonebk');
create collation odd.ignores_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
