--
-- PostgreSQL database dump
--

\restrict N9pYdRfW1gTqLx0uKc3b

-- Dumped from database version 15.18
-- Dumped by pg_dump version 15.18

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: app; Type: DATABASE; Schema: -; Owner: postgres
--

CREATE DATABASE app WITH TEMPLATE = template0 ENCODING = 'UTF8' LOCALE_PROVIDER = libc LOCALE = 'C.UTF-8';


ALTER DATABASE app OWNER TO postgres;

\unrestrict N9pYdRfW1gTqLx0uKc3b
\connect app
\restrict N9pYdRfW1gTqLx0uKc3b

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: app; Type: DATABASE PROPERTIES; Schema: -; Owner: postgres
--

ALTER DATABASE app SET search_path TO 'app', 'public';


\unrestrict N9pYdRfW1gTqLx0uKc3b
\connect app
\restrict N9pYdRfW1gTqLx0uKc3b

SET statement_timeout = 0;
SET lock_timeout = 0;
SET idle_in_transaction_session_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);
SET check_function_bodies = false;
SET xmloption = content;
SET client_min_messages = warning;
SET row_security = off;

--
-- Name: Mixed Case; Type: SCHEMA; Schema: -; Owner: postgres
--

CREATE SCHEMA "Mixed Case";


ALTER SCHEMA "Mixed Case" OWNER TO postgres;

--
-- Name: app; Type: SCHEMA; Schema: -; Owner: app_owner
--

CREATE SCHEMA app;


ALTER SCHEMA app OWNER TO app_owner;

--
-- Name: billing; Type: SCHEMA; Schema: -; Owner: postgres
--

CREATE SCHEMA billing;


ALTER SCHEMA billing OWNER TO postgres;

--
-- Name: SCHEMA billing; Type: COMMENT; Schema: -; Owner: postgres
--

COMMENT ON SCHEMA billing IS 'money; it''s "ours" $$ \ ; end';


--
-- Name: ext; Type: SCHEMA; Schema: -; Owner: postgres
--

CREATE SCHEMA ext;


ALTER SCHEMA ext OWNER TO postgres;

--
-- Name: german; Type: COLLATION; Schema: app; Owner: postgres
--

CREATE COLLATION app.german (provider = icu, locale = 'de-DE');


ALTER COLLATION app.german OWNER TO postgres;

--
-- Name: btree_gin; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS btree_gin WITH SCHEMA app;


--
-- Name: EXTENSION btree_gin; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION btree_gin IS 'support for indexing common datatypes in GIN';


--
-- Name: btree_gist; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS btree_gist WITH SCHEMA app;


--
-- Name: EXTENSION btree_gist; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION btree_gist IS 'support for indexing common datatypes in GiST';


--
-- Name: citext; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA app;


--
-- Name: EXTENSION citext; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION citext IS 'data type for case-insensitive character strings';


--
-- Name: fuzzystrmatch; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS fuzzystrmatch WITH SCHEMA app;


--
-- Name: EXTENSION fuzzystrmatch; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION fuzzystrmatch IS 'determine similarities and distance between strings';


--
-- Name: hstore; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS hstore WITH SCHEMA app;


--
-- Name: EXTENSION hstore; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION hstore IS 'data type for storing sets of (key, value) pairs';


--
-- Name: intarray; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS intarray WITH SCHEMA app;


--
-- Name: EXTENSION intarray; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION intarray IS 'functions, operators, and index support for 1-D arrays of integers';


--
-- Name: ltree; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS ltree WITH SCHEMA app;


--
-- Name: EXTENSION ltree; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION ltree IS 'data type for hierarchical tree-like structures';


--
-- Name: moddatetime; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS moddatetime WITH SCHEMA app;


--
-- Name: EXTENSION moddatetime; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION moddatetime IS 'functions for tracking last modification time';


--
-- Name: pg_stat_statements; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pg_stat_statements WITH SCHEMA app;


--
-- Name: EXTENSION pg_stat_statements; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION pg_stat_statements IS 'track planning and execution statistics of all SQL statements executed';


--
-- Name: pg_trgm; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA app;


--
-- Name: EXTENSION pg_trgm; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION pg_trgm IS 'text similarity measurement and index searching based on trigrams';


--
-- Name: pgcrypto; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS pgcrypto WITH SCHEMA ext;


--
-- Name: EXTENSION pgcrypto; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION pgcrypto IS 'cryptographic functions';


--
-- Name: postgres_fdw; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA app;


--
-- Name: EXTENSION postgres_fdw; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION postgres_fdw IS 'foreign-data wrapper for remote PostgreSQL servers';


--
-- Name: tablefunc; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS tablefunc WITH SCHEMA app;


--
-- Name: EXTENSION tablefunc; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION tablefunc IS 'functions that manipulate whole tables, including crosstab';


--
-- Name: unaccent; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS unaccent WITH SCHEMA app;


--
-- Name: EXTENSION unaccent; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION unaccent IS 'text search dictionary that removes accents';


--
-- Name: uuid-ossp; Type: EXTENSION; Schema: -; Owner: -
--

CREATE EXTENSION IF NOT EXISTS "uuid-ossp" WITH SCHEMA ext;


--
-- Name: EXTENSION "uuid-ossp"; Type: COMMENT; Schema: -; Owner: 
--

COMMENT ON EXTENSION "uuid-ossp" IS 'generate universally unique identifiers (UUIDs)';


--
-- Name: address; Type: TYPE; Schema: app; Owner: postgres
--

CREATE TYPE app.address AS (
	street text,
	zip text
);


ALTER TYPE app.address OWNER TO postgres;

--
-- Name: email; Type: DOMAIN; Schema: app; Owner: postgres
--

CREATE DOMAIN app.email AS app.citext
	CONSTRAINT email_check CHECK ((VALUE OPERATOR(app.~) '^[^@]+@[^@]+$'::app.citext));


ALTER DOMAIN app.email OWNER TO postgres;

--
-- Name: mood; Type: TYPE; Schema: app; Owner: postgres
--

CREATE TYPE app.mood AS ENUM (
    'sad',
    'ok',
    'it''s;fine'
);


ALTER TYPE app.mood OWNER TO postgres;

--
-- Name: price_range; Type: TYPE; Schema: app; Owner: postgres
--

CREATE TYPE app.price_range AS RANGE (
    subtype = numeric,
    multirange_type_name = app.price_multirange
);


ALTER TYPE app.price_range OWNER TO postgres;

--
-- Name: danger(text); Type: FUNCTION; Schema: app; Owner: postgres
--

CREATE FUNCTION app.danger(s text) RETURNS text
    LANGUAGE plpgsql
    AS $_$ begin return E'\\.' || $$x;$$ || s; end $_$;


ALTER FUNCTION app.danger(s text) OWNER TO postgres;

--
-- Name: nothing(); Type: PROCEDURE; Schema: app; Owner: postgres
--

CREATE PROCEDURE app.nothing()
    LANGUAGE sql
    BEGIN ATOMIC
 SELECT 1;
 SELECT 2;
END;


ALTER PROCEDURE app.nothing() OWNER TO postgres;

--
-- Name: on_ddl(); Type: FUNCTION; Schema: app; Owner: postgres
--

CREATE FUNCTION app.on_ddl() RETURNS event_trigger
    LANGUAGE plpgsql
    AS $$ begin raise notice 'ddl'; end $$;


ALTER FUNCTION app.on_ddl() OWNER TO postgres;

--
-- Name: total(integer, integer); Type: FUNCTION; Schema: app; Owner: postgres
--

CREATE FUNCTION app.total(a integer, b integer DEFAULT 2) RETURNS integer
    LANGUAGE sql IMMUTABLE
    BEGIN ATOMIC
 SELECT
         CASE
             WHEN (a > b) THEN a
             ELSE b
         END AS b;
END;


ALTER FUNCTION app.total(a integer, b integer) OWNER TO postgres;

--
-- Name: touch(); Type: FUNCTION; Schema: app; Owner: postgres
--

CREATE FUNCTION app.touch() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ begin new.updated_at := now(); return new; end; $$;


ALTER FUNCTION app.touch() OWNER TO postgres;

--
-- Name: mul(integer); Type: AGGREGATE; Schema: app; Owner: postgres
--

CREATE AGGREGATE app.mul(integer) (
    SFUNC = int4mul,
    STYPE = integer,
    INITCOND = '1'
);


ALTER AGGREGATE app.mul(integer) OWNER TO postgres;

--
-- Name: ===; Type: OPERATOR; Schema: app; Owner: postgres
--

CREATE OPERATOR app.=== (
    FUNCTION = int4eq,
    LEFTARG = integer,
    RIGHTARG = integer
);


ALTER OPERATOR app.=== (integer, integer) OWNER TO postgres;

--
-- Name: german_ts; Type: TEXT SEARCH CONFIGURATION; Schema: app; Owner: postgres
--

CREATE TEXT SEARCH CONFIGURATION app.german_ts (
    PARSER = pg_catalog."default" );

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR asciiword WITH german_stem;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR word WITH german_stem;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR numword WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR email WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR url WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR host WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR sfloat WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR version WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR hword_numpart WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR hword_part WITH german_stem;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR hword_asciipart WITH german_stem;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR numhword WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR asciihword WITH german_stem;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR hword WITH german_stem;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR url_path WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR file WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR "float" WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR "int" WITH simple;

ALTER TEXT SEARCH CONFIGURATION app.german_ts
    ADD MAPPING FOR uint WITH simple;


ALTER TEXT SEARCH CONFIGURATION app.german_ts OWNER TO postgres;

--
-- Name: other; Type: SERVER; Schema: -; Owner: postgres
--

CREATE SERVER other FOREIGN DATA WRAPPER postgres_fdw OPTIONS (
    host 'x'
);


ALTER SERVER other OWNER TO postgres;

--
-- Name: USER MAPPING app_reader SERVER other; Type: USER MAPPING; Schema: -; Owner: postgres
--

CREATE USER MAPPING FOR app_reader SERVER other OPTIONS (
    password 'y',
    "user" 'x'
);


SET default_tablespace = '';

SET default_table_access_method = heap;

--
-- Name: Weird ; Table; Type: TABLE; Schema: Mixed Case; Owner: postgres
--

CREATE TABLE "Mixed Case"."Weird ; Table" (
    "Col ""q""" text,
    "select" integer,
    "semi;colon" text
);


ALTER TABLE "Mixed Case"."Weird ; Table" OWNER TO postgres;

--
-- Name: base; Type: TABLE; Schema: app; Owner: postgres
--

CREATE TABLE app.base (
    id integer NOT NULL,
    note text
);


ALTER TABLE app.base OWNER TO postgres;

--
-- Name: cache; Type: TABLE; Schema: app; Owner: postgres
--

CREATE UNLOGGED TABLE app.cache (
    k text NOT NULL,
    v bytea
);


ALTER TABLE app.cache OWNER TO postgres;

--
-- Name: child; Type: TABLE; Schema: app; Owner: postgres
--

CREATE TABLE app.child (
    extra text
)
INHERITS (app.base);


ALTER TABLE app.child OWNER TO postgres;

--
-- Name: numbers; Type: SEQUENCE; Schema: app; Owner: postgres
--

CREATE SEQUENCE app.numbers
    START WITH 100
    INCREMENT BY 5
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


ALTER TABLE app.numbers OWNER TO postgres;

--
-- Name: users; Type: TABLE; Schema: app; Owner: app_owner
--

CREATE TABLE app.users (
    id bigint NOT NULL,
    uuid uuid DEFAULT ext.uuid_generate_v4() NOT NULL,
    email app.email NOT NULL,
    name text COLLATE app.german,
    handle text COLLATE pg_catalog."C",
    mood app.mood DEFAULT 'ok'::app.mood,
    home app.address,
    tags app.hstore DEFAULT ''::app.hstore,
    path app.ltree,
    meta jsonb DEFAULT '{"a": ";"}'::jsonb,
    secret text DEFAULT encode(ext.gen_random_bytes(16), 'hex'::text),
    full_name text GENERATED ALWAYS AS (((COALESCE(name, ''::text) || ' '::text) || COALESCE(handle, ''::text))) STORED,
    prices app.price_range,
    updated_at timestamp with time zone DEFAULT now(),
    CONSTRAINT name_ok CHECK (((length(name) < 200) AND (name <> ';'::text)))
);

ALTER TABLE ONLY app.users REPLICA IDENTITY FULL;


ALTER TABLE app.users OWNER TO app_owner;

--
-- Name: TABLE users; Type: COMMENT; Schema: app; Owner: app_owner
--

COMMENT ON TABLE app.users IS 'people
-- not a comment
\. nor copy end';


--
-- Name: COLUMN users.name; Type: COMMENT; Schema: app; Owner: app_owner
--

COMMENT ON COLUMN app.users.name IS 'a name';


--
-- Name: people; Type: VIEW; Schema: app; Owner: postgres
--

CREATE VIEW app.people AS
 SELECT users.id,
    users.name
   FROM app.users
  WHERE (users.name IS NOT NULL)
  WITH CASCADED CHECK OPTION;


ALTER TABLE app.people OWNER TO postgres;

--
-- Name: remote; Type: FOREIGN TABLE; Schema: app; Owner: postgres
--

CREATE FOREIGN TABLE app.remote (
    id integer,
    name text
)
SERVER other;


ALTER FOREIGN TABLE app.remote OWNER TO postgres;

--
-- Name: users_id_seq; Type: SEQUENCE; Schema: app; Owner: app_owner
--

ALTER TABLE app.users ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (
    SEQUENCE NAME app.users_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: events; Type: TABLE; Schema: billing; Owner: postgres
--

CREATE TABLE billing.events (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text,
    data jsonb
)
PARTITION BY RANGE (at);


ALTER TABLE billing.events OWNER TO postgres;

--
-- Name: events_2024; Type: TABLE; Schema: billing; Owner: postgres
--

CREATE TABLE billing.events_2024 (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text,
    data jsonb
);


ALTER TABLE billing.events_2024 OWNER TO postgres;

--
-- Name: events_2025; Type: TABLE; Schema: billing; Owner: postgres
--

CREATE TABLE billing.events_2025 (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text,
    data jsonb
);


ALTER TABLE billing.events_2025 OWNER TO postgres;

--
-- Name: events_id_seq; Type: SEQUENCE; Schema: billing; Owner: postgres
--

ALTER TABLE billing.events ALTER COLUMN id ADD GENERATED BY DEFAULT AS IDENTITY (
    SEQUENCE NAME billing.events_id_seq
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1
);


--
-- Name: events_rest; Type: TABLE; Schema: billing; Owner: postgres
--

CREATE TABLE billing.events_rest (
    id bigint NOT NULL,
    at timestamp with time zone NOT NULL,
    kind text,
    data jsonb
);


ALTER TABLE billing.events_rest OWNER TO postgres;

--
-- Name: invoices; Type: TABLE; Schema: billing; Owner: postgres
--

CREATE TABLE billing.invoices (
    id integer NOT NULL,
    user_id bigint NOT NULL,
    amount numeric(12,2) NOT NULL,
    issued date DEFAULT CURRENT_DATE NOT NULL
);


ALTER TABLE billing.invoices OWNER TO postgres;

--
-- Name: invoices_id_seq; Type: SEQUENCE; Schema: billing; Owner: postgres
--

CREATE SEQUENCE billing.invoices_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;


ALTER TABLE billing.invoices_id_seq OWNER TO postgres;

--
-- Name: invoices_id_seq; Type: SEQUENCE OWNED BY; Schema: billing; Owner: postgres
--

ALTER SEQUENCE billing.invoices_id_seq OWNED BY billing.invoices.id;


--
-- Name: totals; Type: MATERIALIZED VIEW; Schema: billing; Owner: postgres
--

CREATE MATERIALIZED VIEW billing.totals AS
 SELECT invoices.user_id,
    sum(invoices.amount) AS sum
   FROM billing.invoices
  GROUP BY invoices.user_id
  WITH NO DATA;


ALTER TABLE billing.totals OWNER TO postgres;

--
-- Name: events_2024; Type: TABLE ATTACH; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events ATTACH PARTITION billing.events_2024 FOR VALUES FROM ('2024-01-01 00:00:00+00') TO ('2025-01-01 00:00:00+00');


--
-- Name: events_2025; Type: TABLE ATTACH; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events ATTACH PARTITION billing.events_2025 FOR VALUES FROM ('2025-01-01 00:00:00+00') TO ('2026-01-01 00:00:00+00');


--
-- Name: events_rest; Type: TABLE ATTACH; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events ATTACH PARTITION billing.events_rest DEFAULT;


--
-- Name: invoices id; Type: DEFAULT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.invoices ALTER COLUMN id SET DEFAULT nextval('billing.invoices_id_seq'::regclass);


--
-- Name: 20350; Type: BLOB; Schema: -; Owner: postgres
--

SELECT pg_catalog.lo_create('20350');


ALTER LARGE OBJECT 20350 OWNER TO postgres;

--
-- Data for Name: Weird ; Table; Type: TABLE DATA; Schema: Mixed Case; Owner: postgres
--

COPY "Mixed Case"."Weird ; Table" ("Col ""q""", "select", "semi;colon") FROM stdin;
\.


--
-- Data for Name: base; Type: TABLE DATA; Schema: app; Owner: postgres
--

COPY app.base (id, note) FROM stdin;
\.


--
-- Data for Name: cache; Type: TABLE DATA; Schema: app; Owner: postgres
--

COPY app.cache (k, v) FROM stdin;
\.


--
-- Data for Name: child; Type: TABLE DATA; Schema: app; Owner: postgres
--

COPY app.child (id, note, extra) FROM stdin;
\.


--
-- Data for Name: users; Type: TABLE DATA; Schema: app; Owner: app_owner
--

COPY app.users (id, uuid, email, name, handle, mood, home, tags, path, meta, secret, prices, updated_at) FROM stdin;
1	d40a3846-26a0-4c49-a322-441b66a25124	a@b	tab\there	\N	ok	\N		\N	{"a": ";"}	c11f3858ec4a4bdc1d0431c425551ddd	\N	2026-12-01 04:47:25.103693+00
2	e9ac98d6-c4f4-445a-83e2-1924f1210b55	c@d	\\.	\N	ok	\N		\N	{"a": ";"}	ddb4f1bba97da07ff3cd5236f4e0cb36	\N	2026-12-01 04:47:25.103693+00
\.


--
-- Data for Name: events_2024; Type: TABLE DATA; Schema: billing; Owner: postgres
--

COPY billing.events_2024 (id, at, kind, data) FROM stdin;
\.


--
-- Data for Name: events_2025; Type: TABLE DATA; Schema: billing; Owner: postgres
--

COPY billing.events_2025 (id, at, kind, data) FROM stdin;
\.


--
-- Data for Name: events_rest; Type: TABLE DATA; Schema: billing; Owner: postgres
--

COPY billing.events_rest (id, at, kind, data) FROM stdin;
\.


--
-- Data for Name: invoices; Type: TABLE DATA; Schema: billing; Owner: postgres
--

COPY billing.invoices (id, user_id, amount, issued) FROM stdin;
1	1	5.00	2026-12-01
\.


--
-- Name: numbers; Type: SEQUENCE SET; Schema: app; Owner: postgres
--

SELECT pg_catalog.setval('app.numbers', 100, false);


--
-- Name: users_id_seq; Type: SEQUENCE SET; Schema: app; Owner: app_owner
--

SELECT pg_catalog.setval('app.users_id_seq', 2, true);


--
-- Name: events_id_seq; Type: SEQUENCE SET; Schema: billing; Owner: postgres
--

SELECT pg_catalog.setval('billing.events_id_seq', 1, false);


--
-- Name: invoices_id_seq; Type: SEQUENCE SET; Schema: billing; Owner: postgres
--

SELECT pg_catalog.setval('billing.invoices_id_seq', 1, true);


--
-- Data for Name: BLOBS; Type: BLOBS; Schema: -; Owner: -
--

BEGIN;

SELECT pg_catalog.lo_open('20350', 131072);
SELECT pg_catalog.lowrite(0, '\x68656c6c6f');
SELECT pg_catalog.lo_close(0);

COMMIT;

--
-- Name: base base_pkey; Type: CONSTRAINT; Schema: app; Owner: postgres
--

ALTER TABLE ONLY app.base
    ADD CONSTRAINT base_pkey PRIMARY KEY (id);


--
-- Name: cache cache_pkey; Type: CONSTRAINT; Schema: app; Owner: postgres
--

ALTER TABLE ONLY app.cache
    ADD CONSTRAINT cache_pkey PRIMARY KEY (k);


--
-- Name: users users_email_key; Type: CONSTRAINT; Schema: app; Owner: app_owner
--

ALTER TABLE ONLY app.users
    ADD CONSTRAINT users_email_key UNIQUE (email);


--
-- Name: users users_pkey; Type: CONSTRAINT; Schema: app; Owner: app_owner
--

ALTER TABLE ONLY app.users
    ADD CONSTRAINT users_pkey PRIMARY KEY (id);

ALTER TABLE app.users CLUSTER ON users_pkey;


--
-- Name: events events_pkey; Type: CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events
    ADD CONSTRAINT events_pkey PRIMARY KEY (id, at);


--
-- Name: events_2024 events_2024_pkey; Type: CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events_2024
    ADD CONSTRAINT events_2024_pkey PRIMARY KEY (id, at);


--
-- Name: events_2025 events_2025_pkey; Type: CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events_2025
    ADD CONSTRAINT events_2025_pkey PRIMARY KEY (id, at);


--
-- Name: events_rest events_rest_pkey; Type: CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.events_rest
    ADD CONSTRAINT events_rest_pkey PRIMARY KEY (id, at);


--
-- Name: invoices invoices_pkey; Type: CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.invoices
    ADD CONSTRAINT invoices_pkey PRIMARY KEY (id);


--
-- Name: invoices invoices_user_id_daterange_excl; Type: CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.invoices
    ADD CONSTRAINT invoices_user_id_daterange_excl EXCLUDE USING gist (user_id WITH =, daterange(issued, (issued + 1)) WITH &&);


--
-- Name: users_lower; Type: INDEX; Schema: app; Owner: app_owner
--

CREATE INDEX users_lower ON app.users USING btree (lower(name)) WHERE (mood <> 'sad'::app.mood);


--
-- Name: users_meta; Type: INDEX; Schema: app; Owner: app_owner
--

CREATE INDEX users_meta ON app.users USING gin (meta jsonb_path_ops, mood);


--
-- Name: users_name_trgm; Type: INDEX; Schema: app; Owner: app_owner
--

CREATE INDEX users_name_trgm ON app.users USING gin (name app.gin_trgm_ops);


--
-- Name: totals_user_id_idx; Type: INDEX; Schema: billing; Owner: postgres
--

CREATE UNIQUE INDEX totals_user_id_idx ON billing.totals USING btree (user_id);


--
-- Name: events_2024_pkey; Type: INDEX ATTACH; Schema: billing; Owner: postgres
--

ALTER INDEX billing.events_pkey ATTACH PARTITION billing.events_2024_pkey;


--
-- Name: events_2025_pkey; Type: INDEX ATTACH; Schema: billing; Owner: postgres
--

ALTER INDEX billing.events_pkey ATTACH PARTITION billing.events_2025_pkey;


--
-- Name: events_rest_pkey; Type: INDEX ATTACH; Schema: billing; Owner: postgres
--

ALTER INDEX billing.events_pkey ATTACH PARTITION billing.events_rest_pkey;


--
-- Name: st; Type: STATISTICS; Schema: app; Owner: postgres
--

CREATE STATISTICS app.st ON name, handle FROM app.users;


ALTER STATISTICS app.st OWNER TO postgres;

--
-- Name: base people_log; Type: RULE; Schema: app; Owner: postgres
--

CREATE RULE people_log AS
    ON INSERT TO app.base
   WHERE (new.id < 0) DO ( INSERT INTO app.cache (k, v)
  VALUES ('x'::text, NULL::bytea);
 DELETE FROM app.cache
  WHERE (cache.k = 'y'::text);
);


--
-- Name: users moddate; Type: TRIGGER; Schema: app; Owner: app_owner
--

CREATE TRIGGER moddate BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.moddatetime('updated_at');


--
-- Name: users touch; Type: TRIGGER; Schema: app; Owner: app_owner
--

CREATE TRIGGER touch BEFORE UPDATE ON app.users FOR EACH ROW EXECUTE FUNCTION app.touch();


--
-- Name: invoices invoices_user_id_fkey; Type: FK CONSTRAINT; Schema: billing; Owner: postgres
--

ALTER TABLE ONLY billing.invoices
    ADD CONSTRAINT invoices_user_id_fkey FOREIGN KEY (user_id) REFERENCES app.users(id) ON DELETE CASCADE;


--
-- Name: users own; Type: POLICY; Schema: app; Owner: app_owner
--

CREATE POLICY own ON app.users TO app_reader USING ((name = CURRENT_USER));


--
-- Name: users; Type: ROW SECURITY; Schema: app; Owner: app_owner
--

ALTER TABLE app.users ENABLE ROW LEVEL SECURITY;

--
-- Name: everything; Type: PUBLICATION; Schema: -; Owner: postgres
--

CREATE PUBLICATION everything FOR ALL TABLES WITH (publish = 'insert, update, delete, truncate');


ALTER PUBLICATION everything OWNER TO postgres;

--
-- Name: SCHEMA app; Type: ACL; Schema: -; Owner: app_owner
--

GRANT USAGE ON SCHEMA app TO app_reader;


--
-- Name: COLUMN users.id; Type: ACL; Schema: app; Owner: app_owner
--

GRANT SELECT(id) ON TABLE app.users TO app_reader;


--
-- Name: COLUMN users.name; Type: ACL; Schema: app; Owner: app_owner
--

GRANT SELECT(name) ON TABLE app.users TO app_reader;


--
-- Name: TABLE invoices; Type: ACL; Schema: billing; Owner: postgres
--

GRANT ALL ON TABLE billing.invoices TO "Odd Role";


--
-- Name: DEFAULT PRIVILEGES FOR TABLES; Type: DEFAULT ACL; Schema: app; Owner: app_owner
--

ALTER DEFAULT PRIVILEGES FOR ROLE app_owner IN SCHEMA app GRANT SELECT ON TABLES  TO app_reader;


--
-- Name: audit_ddl; Type: EVENT TRIGGER; Schema: -; Owner: postgres
--

CREATE EVENT TRIGGER audit_ddl ON ddl_command_end
   EXECUTE FUNCTION app.on_ddl();


ALTER EVENT TRIGGER audit_ddl OWNER TO postgres;

--
-- Name: totals; Type: MATERIALIZED VIEW DATA; Schema: billing; Owner: postgres
--

REFRESH MATERIALIZED VIEW billing.totals;


--
-- PostgreSQL database dump complete
--

\unrestrict N9pYdRfW1gTqLx0uKc3b

